"""What a check finds: a code that stays, a number, and what to do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong with a reward model, its files or its server.

    Attributes:
        code: Its name, the same in every version.
        what: What is wrong, in a sentence.
        number: How much; None where it cannot be measured.
        unit: What the number is, such as `max |Δ|`, the largest change of a reward.
        fix: What to do about it.
        here: Whether evalkit's own rewards are affected. Else evalkit reads these files rightly,
            and the number is what others get wrong who read them as they stand.
    """

    code: str
    what: str
    number: float | None
    unit: str
    fix: str
    here: bool = True


class Inapplicable(NamedTuple):
    """Why a check says nothing of this reward model."""

    why: str


@dataclass(frozen=True, slots=True)
class Checked:
    """What all checks of one reward model found.

    Attributes:
        name: The reward model.
        findings: What is wrong, in the order of the checks.
        clean: Codes of the checks that found nothing.
        inapplicable: Code -> why that check says nothing.
        conversations: How many (or ordered pairs) were scored.
        pairs: Verdicts that were compared: two answers to one prompt, or ordered pairs.
        unscored: Reason -> how many conversations have no reward for it.
    """

    name: str
    findings: tuple[Finding, ...]
    clean: tuple[str, ...] = ()
    inapplicable: Mapping[str, str] = field(default_factory=dict)
    conversations: int = 0
    pairs: int = 0
    unscored: Mapping[str, int] = field(default_factory=dict)

    @property
    def exit_code(self) -> int:
        """0 if nothing is wrong, else 3."""
        return 3 if self.findings else 0
