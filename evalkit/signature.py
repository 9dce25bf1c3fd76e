"""The signature: every choice that can move a number, on one line that parses back."""

from __future__ import annotations

from dataclasses import dataclass, fields
from urllib.parse import quote, unquote

from evalkit.errors import InputError

NUMBERS = ("max_length", "n", "left_out", "truncated", "resamples", "seed")
SAFE = "#,;=+@/~()[]"


@dataclass(frozen=True, slots=True)
class Signature:
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
        temperature: Of the win probability; empty if it is the model's own, or undefined.
        ci: The interval's method and level.
        resamples: Bootstrap draws, 0 for analytic intervals.
        seed: Of the draws.
        version: Of evalkit.
    """

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
    temperature: str
    ci: str
    resamples: int
    seed: int
    version: str

    def __str__(self) -> str:
        pairs = ((f.name, getattr(self, f.name)) for f in fields(self))
        return "compare|" + "|".join(
            f"{key}:{quote(str(value), SAFE, errors='surrogateescape')}" for key, value in pairs
        )

    @classmethod
    def parse(cls, text: str) -> Signature:
        """The signature that prints as `text`.

        Raises:
            InputError: It is none, or of another version's fields.
        """
        kind, *pairs = text.strip().split("|")
        found = dict(pair.partition(":")[::2] for pair in pairs)
        values = {key: unquote(value, errors="surrogateescape") for key, value in found.items()}
        try:
            numbers = {key: int(values[key]) for key in NUMBERS}
        except (KeyError, ValueError):
            numbers = {}
        complete = found.keys() == {f.name for f in fields(cls)} and len(found) == len(pairs)
        if kind != "compare" or not complete or not numbers:
            raise InputError(
                "not a signature of `evalkit compare`", where=text[:200], fix="paste it whole"
            )
        return cls(**{**values, **numbers})  # type: ignore[arg-type]
