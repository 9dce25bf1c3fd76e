"""The table of decision rules as text and Markdown; computes nothing, only lays out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import groupby

from evalkit.report.layout import aligned, markdown_table
from evalkit.report.tables import percent, points
from evalkit.text import count
from evalkit.validate import Decision
from evalkit.validate.decisions import AT_LIMIT, OK

HEAD = ("design", "n", "rule", "wrong", "at most", "found", "within 4", "at least", "delay", "bias")
TITLES = {
    "gate": "Gates",
    "run": "Alarms over a run",
    "over-optimisation": "Over-optimisation",
    "choice": "The choice of a checkpoint",
}
INTRODUCTION = """\
## Decision rules

How often evalkit's gates, alarms and choices are wrong, and how often they find what is there,
beside the rules that people use on the same simulated data. What evalkit says of itself is in "at
most" and "at least", which others are held to as far as they are wrong; a rule is ok if it keeps
to both, and at the limit if it is beyond them by no more than twice its Monte-Carlo standard
error. Data and rules are described in `evalkit/validate/decisions.py`; n is the number of
prompts. Two checkpoints differ by 0.37 a prompt (standard deviation), as siblings do. Rates are
percent, bias is in points of win rate.

- Gates pass, fail or say that they cannot tell. Wrong is to fail what is no worse, or to pass a
  loss of the margin or more; "found" is the right verdict, and what is neither is inconclusive.
  "Detectable" is the loss that `minimum_detectable_effect` states for a power of 80 %. The strict
  rule states it for a loss of so much, the other one for a loss of so much beyond the margin.
  Where 1 of 10 loses, the other nine gain 10 points. Verdicts are those of `evalkit gate` on a
  saved result.
- Runs have 30 checkpoints. Wrong is any alarm before the mean declines, which it does after the
  12th or never; "found" is a first alarm after that, "within 4" at most four checkpoints later,
  and the delay the median of checkpoints from the turn to it ("never" where fewer than half have
  one). A decline of 2 points a checkpoint is said to be found within four in 95 % of runs, from
  500 prompts on.
  The alarms are those of `evalkit track`: windows or cumulative sums, each with half of the error.
  Alone with all of it, which no command does, either would be wrong a little too often: windows
  in 5.6 % (± 0.3) of 8,500 flat runs of 200 or 805 prompts, cumulative sums in 6.0 %. Resamples
  are 2,000 here and 10,000 in `evalkit track`.
- Over-optimisation: B is held out, A trained against, and both follow the scaling law of Gao et
  al. (arXiv 2210.10760). The other rules look at B alone.
- Choices: wrong is a set without the truly best checkpoint, or an interval of the chosen one's
  mean without the truth; a bias up to 0.2 points counts as none.
"""


def to_lines(rows: Sequence[Decision]) -> list[str]:
    """The table for a terminal, and how many of evalkit's rules do as they say."""
    table: list[tuple[str, ...]] = [("decision", *HEAD[:2], "whose", *HEAD[2:], "verdict")]
    for row in rows:
        design, n, *rest = _cells(row)
        table.append((row.kind, design, n, row.whose, *rest, row.verdict))
    return [*aligned(table), tally(rows)]


def tally(rows: Sequence[Decision]) -> str:
    """How many of evalkit's rows are as they say."""
    own = [row.verdict for row in rows if row.whose == "evalkit"]
    fine, near = own.count(OK), own.count(AT_LIMIT)
    trials = [row.trials for row in rows]
    return (
        f"evalkit's rules: {count(len(own), 'row')}, {fine} ok, {near} at the limit, "
        f"{len(own) - fine - near} not; {min(trials)} to {max(trials)} trials a row"
    )


def to_markdown(rows: Sequence[Decision]) -> list[str]:
    """What is not as said first; then a section a kind of decision."""
    beyond = [row for row in rows if row.whose == "evalkit" and row.verdict != OK]
    lines = [*INTRODUCTION.splitlines(), "", "### evalkit's rules outside the limits", ""]
    lines += markdown_table([(*HEAD, "verdict"), *((*_cells(r), r.verdict) for r in beyond)])
    for kind, of_kind in groupby(rows, key=lambda row: row.kind):
        group = list(of_kind)
        shown = [i for i, c in enumerate(zip(*map(_cells, group), strict=True)) if any(c)]
        lines += ["", f"### {TITLES[kind]}", ""]
        cells = [(*(_cells(row)[i] for i in shown), row.whose, row.verdict) for row in group]
        head = (*(HEAD[i] for i in shown), "whose", "verdict")
        lines += markdown_table([head, *cells])
    return lines


def _cells(row: Decision) -> tuple[str, ...]:
    bias = "" if row.bias is None else f"{points(row.bias, 2)} ± {percent(row.bias_stderr or 0, 2)}"
    return (
        row.design,
        f"{row.n}",
        row.rule,
        f"{100 * row.wrong:.1f} ± {100 * row.stderr:.1f}",
        f"{100 * row.at_most:g}",
        _percent(row.found),
        _percent(row.in_time),
        "" if row.at_least is None else f"{100 * row.at_least:g}",
        _delay(row.delay),
        bias,
    )


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.1f}"


def _delay(delay: float | None) -> str:
    if delay is None:
        return ""
    return f"{delay:g}" if math.isfinite(delay) else "never"
