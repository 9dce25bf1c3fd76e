"""What goes in and what comes out of a reward model, and the digests that identify it.

A digest is a SHA-256 over content alone: names, paths and row order never enter one.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from evalkit.errors import Fault, MalformedError
from evalkit.text import count

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
TextArray = npt.NDArray[np.object_]  # numpy's own text arrays drop trailing NULs
Scalar = str | int | float | bool | None


class Unreadable(str):
    """Why a row has no reward: a judge answered, and did not say which answer is better."""

    __slots__ = ()


class ServerFailed(str):
    """Why a row has no reward: its request failed, which says nothing against the row."""

    __slots__ = ()


def of_side(name: str, why: str) -> str:
    """The same reason, of the same kind, with the name of the set that it is about."""
    return type(why)(f"{name}: {why}")


def fix_of(reasons: Iterable[str]) -> str:
    """What to do about rows without a reward, by the kinds of reasons that there are."""
    kinds = {type(why) for why in reasons}
    fixes: Mapping[type[str], str] = {
        str: "mend these rows (see --max-length and --overlong for long ones)",
        ServerFailed: "mend the server where it fails again, and give the same command again: "
        "what it did not answer is asked for anew",
        Unreadable: "the same command asks again for verdicts that cannot be read; give the judge "
        'more max_tokens, another prompt, or verdict = "letter"',
    }
    return "; ".join(fix for kind, fix in fixes.items() if kind in kinds)


class Message(NamedTuple):
    """One turn of a conversation."""

    role: str
    content: str


Messages = tuple[Message, ...]


def conversation(prompt: Messages, answer: str) -> Messages:
    """A prompt with an answer to it."""
    return (*prompt, Message("assistant", answer))


class Pair(NamedTuple):
    """Two answers to one prompt, in the order a pair-preference model reads them."""

    prompt: Messages
    first: str
    second: str

    def conversations(self) -> tuple[Messages, Messages]:
        """The prompt with either answer."""
        return conversation(self.prompt, self.first), conversation(self.prompt, self.second)


# What a reward model scores: a conversation, or for a pair-preference model an ordered pair.
Item = Messages | Pair


def canonical_json(value: object) -> str:
    """JSON with sorted keys, no spaces and ASCII escapes: one text per value."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def digest(kind: str, value: object) -> str:
    """SHA-256 (64 hex digits) over the canonical JSON of `value`, apart from every other kind."""
    return hashlib.sha256(f"evalkit/{kind}/v1\0{canonical_json(value)}".encode("ascii")).hexdigest()


def conversation_key(messages: Messages) -> str:
    """Identity of a whole conversation: exact code points, roles and order."""
    return digest("conversation", messages)


def item_key(item: Item) -> str:
    """Identity of what is scored; for a pair, in its order."""
    return digest("pair", item) if isinstance(item, Pair) else conversation_key(item)


def default_prompt_id(messages: Messages) -> str:
    """The id of a prompt that was given none."""
    return digest("prompt", messages)


@dataclass(frozen=True, slots=True)
class Prompt:
    """What was asked.

    Attributes:
        prompt_id: As given, else the digest of the messages.
        messages: The turns, the last of them not the answer.
        subset: The smallest group of the benchmark it belongs to; empty if none.
    """

    prompt_id: str
    messages: Messages
    subset: str = ""


@dataclass(frozen=True, slots=True)
class Row:
    """One completion as a file holds it.

    Attributes:
        id: The id as given, in its own type; None if there was none.
        messages: The prompt; None where only its id is given and a benchmark holds the rest.
        completion: The answer, code point for code point.
        subset: Empty if the file names none.
        index: Which completion of its prompt, where the file says so.
        where: `file:line`, for errors.
    """

    id: Scalar
    messages: Messages | None
    completion: str
    subset: str = ""
    index: int | None = None
    where: str = ""


@dataclass(frozen=True)
class CompletionSet:
    """A named set of completions, one or more per prompt.

    Attributes:
        name: How reports call it; never part of a digest.
        prompts: P prompts, in the order the file first names them.
        completions: P tuples of K_p ≥ 1 completions.
        step: Training step, if the set has one.
        source: Where it was read from, for people.
        notice: What a reader must know about it (a stand-in says so); empty if nothing.
    """

    name: str
    prompts: tuple[Prompt, ...]
    completions: tuple[tuple[str, ...], ...]
    step: int | None = None
    source: str = ""
    notice: str = ""

    def by_prompt(self) -> Iterator[tuple[Prompt, tuple[str, ...]]]:
        """Every prompt with its completions, in order."""
        return zip(self.prompts, self.completions, strict=True)

    def answers(self) -> Iterator[tuple[Prompt, str]]:
        """Every prompt with each of its completions, in order: N = ΣK_p pairs."""
        for prompt, completions in self.by_prompt():
            for completion in completions:
                yield prompt, completion

    def conversations(self) -> Iterator[Messages]:
        """The same as whole conversations."""
        for prompt, completion in self.answers():
            yield conversation(prompt.messages, completion)

    @cached_property
    def digest(self) -> str:
        """Identity of the prompts and completions, whatever their order in the file."""
        rows = sorted((p.prompt_id, p.messages, p.subset, c) for p, c in self.by_prompt())
        return digest("completions", rows)

    @property
    def label(self) -> str:
        """Name and the first 12 digits of the digest, joined by `#`: as signatures say it."""
        return f"{self.name}#{self.digest[:12]}"


@dataclass(frozen=True)
class Rewards:
    """The rewards of one completion set under one reward model, one row per completion.

    Attributes:
        prompt_id: (N,) as in the set, rows of one prompt together.
        reward: (N,) in reward-model units; NaN where there is none.
        tokens: (N,) tokens of the whole conversation, template included; 0 where unknown.
        cut: (N,) tokens lost to truncation.
        failures: Row number -> why it has no reward.
    """

    prompt_id: TextArray
    reward: FloatArray
    tokens: IntArray
    cut: IntArray
    failures: Mapping[int, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for column in (self.prompt_id, self.reward, self.tokens, self.cut):
            column.setflags(write=False)


@dataclass(frozen=True)
class Preferences:
    """What a pair-preference model says of a checkpoint against a reference.

    One row for each pairing of a prompt's K_p completions with its M_p reference completions,
    N = ΣK_p·M_p, both orders asked.

    Attributes:
        prompt_id: (N,) rows of one prompt together.
        probability: (N,) that the checkpoint's completion is the better one, mean over both
            orders, in [0, 1]; NaN where there is none.
        order_gap: (N,) the probability where the checkpoint's completion is shown first minus that
            where it is shown second, in [-1, 1]; above 0 the first place helps.
        cut: (N,) tokens lost to truncation, both orders together.
        failures: Row number -> why there is no probability.
    """

    prompt_id: TextArray
    probability: FloatArray
    order_gap: FloatArray
    cut: IntArray
    failures: Mapping[int, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for column in (self.prompt_id, self.probability, self.order_gap, self.cut):
            column.setflags(write=False)


def completion_set(
    name: str,
    rows: Sequence[Row],
    *,
    prompts: Mapping[str, Prompt] | None = None,
    step: int | None = None,
    source: str = "",
    notice: str = "",
) -> CompletionSet:
    """Group rows into a `CompletionSet`.

    Rows without an id are further completions of the prompt whose messages they share. Rows with
    an id need distinct `index` values to be several completions; an exact repeat is read once.

    Args:
        name: The name of the set.
        rows: As `evalkit.formats.read_rows` gives them.
        prompts: The benchmark's prompts by id, for rows that name a prompt without its messages.
        step: Training step of a checkpoint.
        source: Where the rows come from.
        notice: What a reader must know about the set.

    Raises:
        MalformedError: An unknown prompt id, one id for two prompts, or two different
            completions under one id and index.
    """
    faults: list[Fault] = []
    found: dict[str, Prompt] = {}
    answers: dict[str, dict[int, str]] = {}
    repeats = 0
    for row in rows:
        prompt = prompt_of(row, prompts or {}, faults)
        if prompt is None:
            continue
        if found.setdefault(prompt.prompt_id, prompt) != prompt:
            what = f"{prompt.prompt_id!r} is given to two different prompts or subsets"
            faults.append(Fault(row.where, "id", what))
            continue
        repeats += _place(row, prompt.prompt_id, answers.setdefault(prompt.prompt_id, {}), faults)
    if faults:
        raise MalformedError(
            source or name,
            faults,
            fix="a prompt has one id, one subset and the messages of its benchmark, if it has one; "
            'each of its completions has its own "index"; rows without "messages" need a benchmark '
            "(-b NAME)",
        )
    repeated = f"{name}: {count(repeats, 'exact repeat')} read once" if repeats else ""
    return CompletionSet(
        name=name,
        prompts=tuple(found.values()),
        completions=tuple(tuple(a[k] for k in sorted(a)) for a in answers.values()),
        step=step,
        source=source,
        notice="; ".join(filter(None, [notice, repeated])),
    )


def _place(row: Row, prompt_id: str, known: dict[int, str], faults: list[Fault]) -> bool:
    """Put a row's completion among those of its prompt; True if it was there already."""
    following = max(known, default=-1) + 1 if row.id is None else 0
    index = following if row.index is None else row.index
    repeated = index in known
    if known.setdefault(index, row.completion) != row.completion:
        what = f"{index} of prompt {prompt_id!r} has a different completion before"
        faults.append(Fault(row.where, "index", what))
    return repeated


def prompt_of(row: Row, prompts: Mapping[str, Prompt], faults: list[Fault]) -> Prompt | None:
    """The prompt a row answers, its messages from the benchmark where the row has none.

    Args:
        row: The row.
        prompts: The benchmark's prompts by id, and by `default_prompt_id` for rows without one.
        faults: Where to add what is wrong.

    Returns:
        None if the prompt is unknown, or differs from the benchmark's of the same id.
    """
    if row.messages is None:
        prompt = prompts.get(str(row.id))
        if prompt is None:
            what = (
                "is in no prompts.jsonl of the benchmark"
                if prompts
                else 'comes without "messages", and no benchmark is named to look them up in'
            )
            faults.append(Fault(row.where, "prompt_id", f"{str(row.id)!r} {what}"))
        return prompt
    prompt_id = default_prompt_id(row.messages) if row.id is None else str(row.id)
    known = prompts.get(prompt_id)
    if known is None:
        return Prompt(prompt_id, row.messages, row.subset)
    if known.messages != row.messages:
        what = f"of prompt {prompt_id!r} differ from the benchmark's"
        faults.append(Fault(row.where, "messages", what))
        return None
    if row.subset not in {"", known.subset}:
        what = f"of prompt {prompt_id!r} is {known.subset!r} in the benchmark"
        faults.append(Fault(row.where, "subset", what))
        return None
    return known
