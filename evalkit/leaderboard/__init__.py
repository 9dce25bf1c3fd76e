"""All checkpoints and references on one scale: the Bradley-Terry model of who beats whom."""

from __future__ import annotations

from evalkit.leaderboard.result import Decider, Leaderboard, Options, Player, Signature
from evalkit.leaderboard.rewards import leaderboard
from evalkit.leaderboard.verdicts import leaderboard_of_verdicts

__all__ = [
    "Decider",
    "Leaderboard",
    "Options",
    "Player",
    "Signature",
    "leaderboard",
    "leaderboard_of_verdicts",
]
