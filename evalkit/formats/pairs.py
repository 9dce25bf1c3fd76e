"""Labelled pairs: two answers to one prompt, and which of them people (or a judge) chose.

Either with their texts, to be scored:

    {"messages": […] or "prompt": text or […], "chosen", "rejected",
     "id"?, "prompt_id"?, "subset"?, "magnitude"?, "cluster"?}

where `chosen` and `rejected` are texts, or whole conversations whose last turn is the answer; or
with the rewards somebody already has: `reward_chosen` and `reward_rejected` (or `chosen_score` and
`rejected_score`) and any of the other fields. JSON Lines, a JSON array, CSV, Parquet, a data set.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

from evalkit.data import Message, Messages, conversation, default_prompt_id
from evalkit.errors import Fault, InputError, MalformedError
from evalkit.formats import containers
from evalkit.formats.fields import Fields, Record
from evalkit.text import clip

REWARDS = (("reward_chosen", "reward_rejected"), ("chosen_score", "rejected_score"))
MAGNITUDES = (1, 2, 3)

Found = TypeVar("Found")


@dataclass(frozen=True, slots=True)
class PreferencePair:
    """Two answers to one prompt, the first of them chosen.

    Attributes:
        pair_id: As given, else that of the prompt; for people, and not always unique.
        messages: The prompt.
        chosen: The answer that was chosen.
        rejected: The other one.
        subset: Empty if the file names none.
        magnitude: By how much it was judged better: 1, 2, 3; None if the file does not say.
        cluster: What the pair shares with others that are not independent of it; by default its
            prompt.
        where: `file:line`.
    """

    pair_id: str
    messages: Messages
    chosen: str
    rejected: str
    subset: str
    magnitude: int | None
    cluster: str
    where: str

    def conversations(self) -> tuple[Messages, Messages]:
        """The prompt with the chosen answer, and with the rejected one."""
        return conversation(self.messages, self.chosen), conversation(self.messages, self.rejected)


@dataclass(frozen=True, slots=True)
class RewardPair:
    """The rewards of two answers to one prompt, the first of them chosen.

    Attributes:
        pair_id: As given, else `where`.
        chosen: In reward-model units; NaN where there is none.
        rejected: Likewise.
        subset: Empty if the file names none.
        magnitude: As of a `PreferencePair`.
        cluster: Likewise; empty for a pair of its own.
        where: `file:line`.
        problem: Why a reward is missing; empty if none is.
    """

    pair_id: str
    chosen: float
    rejected: float
    subset: str
    magnitude: int | None
    cluster: str
    where: str
    problem: str = ""


class _Answer(NamedTuple):
    """A text, and the prompt before it where the field holds the whole conversation."""

    text: str
    prompt: Messages | None


def read_pairs(source: str) -> list[PreferencePair]:
    """Read every labelled pair of a file or data set.

    Raises:
        InputError: No such file, or no pairs.
        MalformedError: Faulty records, with file, line and field.
    """
    ids: dict[str, Messages] = {}

    def parse(fields: Fields, record: Record) -> PreferencePair:
        return parse_pair(fields, record, ids)

    return _read(
        source,
        parse,
        'a pair has a prompt ("messages", or "prompt" as text), "chosen" and "rejected"; both may '
        "be whole conversations instead",
    )


def read_reward_pairs(source: str) -> list[RewardPair]:
    """Read the rewards of labelled pairs.

    A reward that is null, empty, NaN or infinite is none; its pair is kept and says so.

    Raises:
        InputError: No such file, or no pairs.
        MalformedError: Faulty records, with file, line and field.
    """
    return _read(source, reward_pair, "a pair has the numbers reward_chosen and reward_rejected")


def _read(source: str, parse: Callable[[Fields, Record], Found], fix: str) -> list[Found]:
    faults: list[Fault] = []
    found = [parse(Fields(r, faults), r) for r in containers.records(source, faults)]
    if faults:
        raise MalformedError(source, faults, fix=fix)
    if not found:
        raise InputError("no pairs in the input", where=source, fix="the file is empty")
    return found


def parse_pair(fields: Fields, record: Record, ids: dict[str, Messages]) -> PreferencePair:
    """One pair; with faults noted, it is not to be used.

    Args:
        fields: Of the record; what is wrong is noted there.
        record: The record.
        ids: The prompts by id that earlier pairs named; this pair's is added.
    """
    chosen, rejected = (_answer(fields, record, name) for name in ("chosen", "rejected"))
    messages = _prompt(fields, chosen, rejected) or ()
    prompt_id = fields.first_id("prompt_id") or default_prompt_id(messages)
    if ids.setdefault(prompt_id, messages) != messages:
        fields.fault("prompt_id", f"{prompt_id!r} is given to two different prompts")
    return PreferencePair(
        pair_id=fields.first_id("id", "pair_id") or prompt_id,
        messages=messages,
        chosen=chosen.text,
        rejected=rejected.text,
        subset=fields.optional_text("subset"),
        magnitude=_magnitude(fields, record),
        cluster=fields.first_id("cluster") or prompt_id,
        where=record.where,
    )


def _answer(fields: Fields, record: Record, name: str) -> _Answer:
    if not isinstance(record.value.get(name), list):
        return _Answer(fields.text(name) or "", None)
    turns = fields.messages(name)
    if turns is None:
        return _Answer("", None)
    if turns[-1].role != "assistant" or turns[-2].role != "user":
        fields.fault(name, "must end with the user's turn and the assistant's answer to it")
    return _Answer(turns[-1].content, turns[:-1])


def _prompt(fields: Fields, chosen: _Answer, rejected: _Answer) -> Messages | None:
    """What both answer; what stands beside whole conversations must not contradict them."""
    held = [answer.prompt for answer in (chosen, rejected) if answer.prompt is not None]
    if not held:
        if "messages" not in fields and "prompt" in fields:
            return fields.question("prompt")
        return fields.prompt("messages")
    found = held[0]
    if held[-1] != found:
        fields.fault("rejected", "is the answer to another prompt than chosen")
    if "messages" in fields:  # some data sets repeat the chosen conversation there
        given = fields.messages("messages")
        if given not in {None, found, conversation(found, chosen.text)}:
            fields.fault("messages", "is not the prompt that chosen and rejected hold")
    elif "prompt" in fields:
        turns = {(Message("user", turn.content),) for turn in found}
        if fields.question("prompt") not in {None, found, *turns}:
            fields.fault("prompt", "is no turn of what chosen and rejected hold")
    return found


def reward_pair(fields: Fields, record: Record) -> RewardPair:
    """The rewards of one pair; with faults noted, it is not to be used."""
    names = next((n for n in REWARDS if any(name in record.value for name in n)), REWARDS[0])
    chosen, rejected = (fields.reward(name, fields.required(name)) for name in names)
    both = zip(names, (chosen, rejected), strict=True)
    missing = [f"{name} is {record.value.get(name)}" for name, x in both if math.isnan(x)]
    pair_id = fields.first_id("id", "pair_id", "prompt_id")
    return RewardPair(
        pair_id=pair_id or record.where,
        chosen=chosen,
        rejected=rejected,
        subset=fields.optional_text("subset"),
        magnitude=_magnitude(fields, record),
        cluster=fields.first_id("cluster", "prompt_id") or pair_id,
        where=record.where,
        problem=" and ".join(missing),
    )


def _magnitude(fields: Fields, record: Record) -> int | None:
    value = record.value.get("magnitude")
    if value is None:
        return None
    text = str(value).removesuffix(".0")  # CSV holds text, and a column with gaps floats
    if text in {str(known) for known in MAGNITUDES}:
        return int(text)
    fields.fault("magnitude", f"must be 1, 2 or 3, got {clip(value)}")
    return None
