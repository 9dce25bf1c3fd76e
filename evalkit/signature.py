"""The signature: every choice that can move a number, on one line that parses back.

Each command has a `Line` of its own; that of `compare` is `Signature` here.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import ClassVar, Self
from urllib.parse import quote, unquote

from evalkit.errors import InputError

SAFE = "#,;=+@/~()[]"


@dataclass(frozen=True, slots=True)
class Line:
    """What a dataclass of text, counts and lists of text prints as, and parses back from.

    Fields are `str`, `int` (≥ 0), `int | None` (None prints as nothing) or `tuple[str, ...]`.
    """

    KIND: ClassVar[str]

    def __str__(self) -> str:
        said = (f"{f.name}:{_said(getattr(self, f.name))}" for f in fields(self))
        return "|".join([self.KIND, *said])

    @classmethod
    def parse(cls, text: str) -> Self:
        """The signature that prints as `text`.

        Raises:
            InputError: It is none, or of another version's fields.
        """
        kind, *pairs = text.strip().split("|")
        found = dict(pair.partition(":")[::2] for pair in pairs)
        kinds = {f.name: str(f.type) for f in fields(cls)}
        complete = found.keys() == kinds.keys() and len(found) == len(pairs)
        numbers = [
            found.get(name, "")
            for name, of in kinds.items()
            if of == "int" or (of == "int | None" and found.get(name))
        ]
        if kind != cls.KIND or not complete or not all(n.isdecimal() for n in numbers):
            raise InputError(
                f"not a signature of `evalkit {cls.KIND}`", where=text[:200], fix="paste it whole"
            )
        return cls(**{name: _parsed(value, kinds[name]) for name, value in found.items()})


def _said(value: object) -> str:
    if isinstance(value, tuple):
        return ",".join(_quoted(str(part), SAFE.replace(",", "")) for part in value)
    return "" if value is None else _quoted(str(value), SAFE)


def _quoted(text: str, safe: str) -> str:
    return quote(text, safe, errors="surrogateescape")


def _parsed(text: str, of: str) -> object:
    if of.startswith("tuple"):
        parts = text.split(",") if text else []
        return tuple(unquote(part, errors="surrogateescape") for part in parts)
    if of.startswith("int"):
        return int(text) if text else None
    return unquote(text, errors="surrogateescape")


@dataclass(frozen=True, slots=True)
class Signature(Line):
    """What was compared and how; printed as `kind|key:value|…` in a fixed order.

    Attributes:
        checkpoint: Name and the first 12 digits of its completions' digest, joined by `#`.
        reference: Likewise.
        rm: Name and the first 16 digits of its fingerprint, joined by `#`.
        dtype: Of the reward model's trunk.
        max_length: Its limit in tokens.
        overlong: What becomes of longer conversations.
        benchmark: Whose prompts had to be answered; empty if none was named.
        n: Prompts compared.
        left_out: Prompts that could not be compared.
        truncated: Completions that lost tokens.
        missing: What was to be done about those.
        ties: The tie rule.
        clusters: What is drawn as one: prompts, or subsets.
        output: What the reward model's number is.
        human: Name and digest of the human labels that correct the rest; empty without.
        length_pool: Whose answers gave the win rate at equal lengths its prior and difficulties.
        temperature: Of the win probability; empty if it is the model's own, or undefined.
        ci: The interval's method and level.
        resamples: Bootstrap draws, 0 for analytic intervals.
        seed: Of the draws.
        version: Of evalkit.
    """

    KIND: ClassVar[str] = "compare"

    checkpoint: str
    reference: str
    rm: str
    dtype: str
    max_length: int
    overlong: str
    benchmark: str
    n: int
    left_out: int
    truncated: int
    missing: str
    ties: str
    clusters: str
    output: str
    human: str
    length_pool: tuple[str, ...]
    temperature: str
    ci: str
    resamples: int
    seed: int
    version: str
