"""What pairing makes: one row per prompt, and the prompts it left out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING

import numpy as np

from evalkit.data import FloatArray, IntArray, TextArray

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, slots=True)
class TieRule:
    """What counts as a tie and what becomes of it.

    Attributes:
        margin: |margin| ≤ this is a tie, in reward-model units; of a pair-preference model,
            |P − ½| ≤ this.
        drop: Leave ties out of the win rate instead of counting them one half.
    """

    margin: float = 0.0
    drop: bool = False

    def __str__(self) -> str:
        margin = f"margin={self.margin!r}" if self.margin else ""
        return ",".join(filter(None, [margin, "drop" if self.drop else ""])) or "half"


@dataclass(frozen=True, slots=True)
class Unmatched:
    """Prompts that are not in the table, and why.

    Attributes:
        missing_in_checkpoint: Prompt ids the checkpoint has no completion for.
        missing_in_reference: Prompt ids the reference has no completion for.
        unscored: Prompt id -> why one of its completions has no reward.
        unreadable: How many of the unscored have a judge's verdict that could not be read, whatever
            else went wrong with them.
    """

    missing_in_checkpoint: tuple[str, ...] = ()
    missing_in_reference: tuple[str, ...] = ()
    unscored: Mapping[str, str] = field(default_factory=dict)
    unreadable: int = 0

    @property
    def prompt_ids(self) -> set[str]:
        """All of them."""
        return {*self.missing_in_checkpoint, *self.missing_in_reference, *self.unscored}

    def __len__(self) -> int:
        return len(self.prompt_ids)


@dataclass(frozen=True, slots=True)
class PairedTable:
    """One row per prompt, P rows sorted by prompt id; columns are read-only.

    Attributes:
        prompt_id: (P,).
        subset: (P,) empty text where the prompt has none.
        checkpoint_reward: (P,) mean over the prompt's completions, reward-model units.
        reference_reward: (P,) likewise.
        outcome: (P,) mean outcome over all K_p·M_p pairs, in [0, 1]; NaN if ties are dropped and
            all pairs are tied.
        probability: (P,) mean win probability over the same pairs, in [0, 1]; NaN if the reward
            model's margins have no temperature.
        order_gap: (P,) how much being shown first helps with a pair-preference model: probability
            shown first minus shown second, mean over pairs, in [-1, 1]; NaN for other reward
            models, as the rewards and tokens are for a pair-preference model.
        order_shift: (P,) mean over pairs of the size of that difference, in [0, 1]; likewise.
        checkpoint_tokens: (P,) mean tokens of the conversations before any cut, template included.
        reference_tokens: (P,) likewise.
        truncated: Completions of these prompts that lost tokens.
        unmatched: The prompts left out.

    Raises:
        ValueError: Columns of different lengths.
    """

    prompt_id: TextArray
    subset: TextArray
    checkpoint_reward: FloatArray
    reference_reward: FloatArray
    outcome: FloatArray
    probability: FloatArray
    order_gap: FloatArray
    order_shift: FloatArray
    checkpoint_tokens: FloatArray
    reference_tokens: FloatArray
    truncated: int
    unmatched: Unmatched

    def __post_init__(self) -> None:
        every = {f.name: getattr(self, f.name) for f in fields(self)}
        columns = {name: of for name, of in every.items() if isinstance(of, np.ndarray)}
        lengths = {name: len(column) for name, column in columns.items()}
        if len(set(lengths.values())) > 1:
            raise ValueError(f"columns of different lengths: {lengths}")
        for column in columns.values():
            column.setflags(write=False)

    @property
    def margin(self) -> FloatArray:
        """(P,) checkpoint reward minus reference reward."""
        return self.checkpoint_reward - self.reference_reward

    @property
    def lead(self) -> FloatArray:
        """(P,) how clearly the checkpoint is ahead: the margin, or P − ½ where there is none."""
        return np.where(np.isnan(self.margin), self.probability - 0.5, self.margin)

    def rows(self, subset: str) -> IntArray:
        """Row numbers of one subset."""
        return np.flatnonzero(self.subset == subset)

    def to_frame(self) -> pd.DataFrame:
        """The table as a data frame, one row per prompt."""
        import pandas as pd

        return pd.DataFrame(self.columns())

    def columns(self) -> dict[str, TextArray | FloatArray]:
        """Column name -> values, in the order they are written."""
        pairwise = {} if np.all(np.isnan(self.order_gap)) else {"order_gap": self.order_gap}
        return {
            "prompt_id": self.prompt_id,
            "subset": self.subset,
            "checkpoint_reward": self.checkpoint_reward,
            "reference_reward": self.reference_reward,
            "margin": self.margin,
            "outcome": self.outcome,
            "win_probability": self.probability,
            **pairwise,
            "checkpoint_tokens": self.checkpoint_tokens,
            "reference_tokens": self.reference_tokens,
        }
