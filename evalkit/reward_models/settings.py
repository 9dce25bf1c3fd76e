"""Settings that every reward model has, whatever describes it: dtype, length, over-long policy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from evalkit.errors import InputError
from evalkit.text import did_you_mean

Overlong = Literal["error", "truncate-left", "truncate-right"]
OVERLONG: tuple[Overlong, ...] = ("error", "truncate-left", "truncate-right")
DTYPES = ("float32", "bfloat16", "float16")


def dtype_of(value: object) -> str:
    """A dtype by its name; float32 where none is stated.

    Raises:
        InputError: An unknown one.
    """
    name = str(value or "float32").removeprefix("torch.")
    if name not in DTYPES:
        raise InputError(
            f"unknown dtype {name!r}",
            fix=f"choose one of {', '.join(DTYPES)}. {did_you_mean(name, DTYPES)}".strip(),
        )
    return name


def max_length_of(asked: object, limits: Sequence[int | None], advised: int | None = None) -> int:
    """What is asked for, else what its authors use, else what its files allow.

    Args:
        asked: From the command line or evalkit.toml; None if not given.
        limits: What its files state; None where they state none.
        advised: What its authors use.

    Raises:
        InputError: No integer of at least 1, beyond the limits, or nothing known at all.
    """
    known = [x for x in limits if x is not None]
    if asked is None:
        if known or advised:
            return min([*known, *([advised] if advised else [])])
        raise InputError(
            "the reward model states no maximum length", fix="give one with --max-length"
        )
    if not isinstance(asked, int) or isinstance(asked, bool) or asked < 1:
        raise InputError(
            f"max_length must be an integer of at least 1, got {asked!r}",
            fix="correct --max-length, or max_length in evalkit.toml",
        )
    if known and asked > min(known):
        raise InputError(
            f"max_length {asked} is beyond the model's {min(known)} tokens",
            fix="choose a smaller one",
        )
    return asked


def overlong_of(value: object) -> Overlong:
    """An over-long policy by its name.

    Raises:
        InputError: An unknown one.
    """
    for policy in OVERLONG:
        if value == policy:
            return policy
    raise InputError(
        f"unknown over-long policy {value!r}", fix=f"choose one of {', '.join(OVERLONG)}"
    )
