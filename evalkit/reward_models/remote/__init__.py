"""Reward models that somebody else serves over HTTP.

`dialects` says how each server is asked and answers, `client` speaks HTTP, `declared` reads
evalkit.toml, `served` is a reward model of one number a conversation, `judge` a chat model that
says which of two answers is better. Nothing here makes up a number: a reply that is not exactly
what was asked for fails its rows, and says so.
"""
