"""What a server is asked when a reward model is loaded, and what its answers show."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from evalkit.data import Message, Messages

NEAR = 0.01  # of a probability, computed in whatever precision
# Of the range of the probes' rewards. What arithmetic alone moves is far less, in bfloat16 about a
# tenth of a standard deviation.
GROSS = 0.25
QUESTION = (Message("user", "Which is the capital of France?"),)
PROBES: tuple[Messages, ...] = tuple(
    (*QUESTION, Message("assistant", text))
    for text in (
        "Paris.",
        "Berlin, obviously.",
        "qwrt zxcv 0000 ;;;;",
        "I do not know.",
    )
)
ENDS = ("yes", "no", "0000")
FILLER = 16  # words over which the tokens of one are measured


class Fault(NamedTuple):
    """What is wrong with a server's numbers.

    Attributes:
        what: In words.
        code: What `reward-models check` calls it.
        number: How much of it there is.
    """

    what: str
    code: str
    number: float


def squashed(raw: Sequence[float], on: Sequence[float], *, identity: bool) -> Fault | None:
    """What is wrong where scores of several conversations are no raw ones; None if they are shown.

    Args:
        raw: With the activation off.
        on: With it on; the same numbers where a server has no such switch.
        identity: Whether the user says that there is no activation.
    """
    if set(raw) == {1.0}:
        what = "it gives 1.0 to every conversation, as a softmax over one label does"
        return Fault(what, "squashed", 0.0)
    if len(set(raw)) == 1:
        return Fault(f"it gives {raw[0]!r} to every conversation", "constant", len(raw))
    if any(not 0 <= score <= 1 for score in raw) or identity:
        return None
    pairs = list(zip(raw, on, strict=True))
    logistic = all(abs(1 / (1 + math.exp(-r)) - s) <= NEAR for r, s in pairs)
    if logistic and any(abs(r - s) > NEAR for r, s in pairs):
        return None
    what = (
        "all of its scores lie between 0 and 1, as if squashed, and asking for raw ones changes "
        "nothing; if its config states a regression without any activation, say so with "
        "parameters = { identity = true }"
    )
    return Fault(what, "squashed", max(raw) - min(raw))


def mixed_up(alone: Sequence[float], together: Sequence[float]) -> Fault | None:
    """What is wrong where rows of one request get other scores than each of them alone.

    Args:
        alone: (N,) scores of probes, each asked for alone; no two rows of it need differ.
        together: (M,) those of the same rows in one request, begun again after N.
    """
    expected = np.resize(np.array(alone), len(together))
    moved = np.abs(np.array(together) - expected)
    if moved.max() <= GROSS * np.ptp(alone):
        return None
    as_sets = float(np.abs(np.sort(together) - np.sort(expected)).max())
    if as_sets <= moved.max() / 4:
        places = int(np.sum(moved > as_sets))
        what = (
            f"its results do not stand in the order of the rows: {places} of {len(together)} in "
            "one request have the score of another row"
        )
        return Fault(what, "row-order", places)
    what = (
        f"a score moves by up to {moved.max():.3g} with the rows beside it in one request, where "
        f"those of {len(alone)} different answers lie {np.ptp(alone):.3g} apart"
    )
    return Fault(what, "moves-with-batch", float(moved.max()))
