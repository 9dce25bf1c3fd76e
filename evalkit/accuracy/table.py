"""From the rewards of a suite's rows to the table of one reward model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy.special import expit

from evalkit.accuracy.credits import (
    clusters_of,
    earned,
    length_credits,
    rules_of,
    ties_rows,
    views_of_styles,
)
from evalkit.accuracy.result import (
    AccuracyTable,
    LengthBaseline,
    Margins,
    Options,
    Part,
    Score,
    Signature,
)
from evalkit.data import FloatArray, IntArray
from evalkit.formats.rewarded_rows import RewardedRow
from evalkit.reward_models.spec import RewardModelSpec
from evalkit.statistics.accuracy import accuracy, combined
from evalkit.statistics.calibration import calibration_floor, expected_calibration_error
from evalkit.statistics.intervals import Estimate, mean
from evalkit.statistics.losses import bradley_terry_loss, scaled_bradley_terry_loss
from evalkit.statistics.model_ranking import overall_differences
from evalkit.statistics.ties import ties_estimate
from evalkit.suites import Subset, Suite
from evalkit.text import count, listing

BOTH_ORDERS = "judgebench"  # the layout whose single-game mode is another published number


class Rated(NamedTuple):
    """What one reward model says of a suite's rows, and what must be said of it."""

    name: str
    spec: RewardModelSpec | None
    rows: Sequence[RewardedRow]
    notices: Sequence[str]
    signature: Signature


def table_of(rated: Rated, suite: Suite, options: Options) -> AccuracyTable:
    """The table of one reward model, whose rows fit the rules of their subsets.

    Raises:
        InputError: Rows of Ties that have no score, as `ties_estimate` says.
    """
    return _Table(rated, suite, options).result()


def weights_of(suite: Suite, present: Sequence[str]) -> dict[str, float]:
    """Subset -> its share of the overall of those present, in a suite that is not pooled."""
    if not suite.sections:
        parts = {subset.name: subset.weight for subset in suite.subsets if subset.name in present}
        return {name: weight / sum(parts.values()) for name, weight in parts.items()}
    found: dict[str, float] = {}
    sections = [s for s in suite.sections if any(x.name in present for x in s.subsets)]
    total = sum(section.weight for section in sections)
    for section in sections:
        inside = [subset for subset in section.subsets if subset.name in present]
        share = section.weight / total / sum(subset.weight for subset in inside)
        found |= {subset.name: subset.weight * share for subset in inside}
    return found


def strata_of(suite: Suite, of_rows: Sequence[str]) -> tuple[IntArray, FloatArray]:
    """(N,) which stratum of the overall each row is in, by its subset; (S,) their weights."""
    if suite.pooled:
        return np.zeros(len(of_rows), dtype=np.int64), np.ones(1)
    present = sorted(set(of_rows))
    shares = weights_of(suite, present)
    strata = np.array([present.index(name) for name in of_rows], dtype=np.int64)
    return strata, np.array([shares[name] for name in present])


class _Table:
    def __init__(self, rated: Rated, suite: Suite, options: Options) -> None:
        self.rated, self.suite, self.options = rated, suite, options
        self.rows = list(rated.rows)
        rules = rules_of(self.rows, suite)
        self.earned = earned(self.rows, rules, options.tie)
        self.by_length = length_credits(self.rows, rules)
        self.clusters = clusters_of([row.cluster for row in self.rows])
        self.of_subset = np.array([row.subset for row in self.rows], dtype=object)
        self.present = [s for s in suite.subsets if np.any(self.of_subset == s.name)]
        self._names = [subset.name for subset in self.present]

    def result(self) -> AccuracyTable:
        subsets = {s.name: self._subset(s) for s in self.present}
        sections = {}
        for section in self.suite.sections:
            inside = {s.name: subsets[s.name] for s in section.subsets if s.name in subsets}
            if inside:
                sections[section.name] = self._together(inside, list(inside), section.weight)
        return AccuracyTable(
            reward_model=self.rated.name,
            spec=self.rated.spec,
            overall=self._together(sections or subsets, self._names, None),
            sections=sections,
            subsets=subsets,
            views=self._views(),
            margins=self._margins(),
            rows=tuple(self.rows),
            notices=tuple(dict.fromkeys([*self.rated.notices, *self._notices(subsets)])),
            signature=self.rated.signature,
        )

    def _at(self, names: Sequence[str]) -> IntArray:
        return np.flatnonzero(np.isin(self.of_subset, list(names)))

    def _accuracy(self, column: FloatArray, at: IntArray) -> Estimate:
        known = at[~np.isnan(column[at])]
        clusters = self.clusters[known]
        return accuracy(column[known], clusters=clusters, level=self.options.level)

    def _subset(self, subset: Subset) -> Part:
        at = self._at([subset.name])
        whole = [self.rows[i] for i in at.tolist() if not self.rows[i].problem]
        if subset.rule == "ties" and whole:
            strict = half = ties_estimate(ties_rows(whole), level=self.options.level)
        else:
            strict, half = (
                self._accuracy(column, at)
                for column in (self.earned.strict, self.earned.half_credit)
            )
        score = self._score(at, strict, half)
        weight = None if self.suite.pooled else subset.weight
        return Part(score, weight, self._length([subset.name]), subset.note)

    def _score(self, at: IntArray, strict: Estimate, half: Estimate) -> Score:
        verdicts = ~np.isnan(self.earned.strict[at])
        return Score(
            strict=strict,
            half_credit=half,
            n=int(verdicts.sum()),
            ties=int(np.nansum(self.earned.tied[at])),
            errors=int(np.sum(~verdicts)),
            truncated=sum(self.rows[i].truncated for i in at.tolist()),
        )

    def _together(
        self, inside: Mapping[str, Part], names: Sequence[str], weight: float | None
    ) -> Part:
        """A section of subsets, or the overall of what weighs in it; `names` are its subsets."""
        at = self._at(names)
        known = [part for part in inside.values() if part.score.strict.value is not None]
        if self.suite.pooled or not known:
            weight = None if self.suite.pooled else weight
            strict, half = (
                self._accuracy(c, at) for c in (self.earned.strict, self.earned.half_credit)
            )
        else:
            weights = [part.weight or 0.0 for part in known]
            strict = combined([part.score.strict for part in known], weights)
            half = combined([part.score.half_credit for part in known], weights)
        return Part(self._score(at, strict, half), weight, self._length(names))

    def _length(self, names: Sequence[str]) -> LengthBaseline | None:
        """The length-only baseline of subsets, weighted as they are, on rows with a verdict."""
        at = self._at([s.name for s in self.present if s.name in names and s.rule != "ties"])
        known = at[~np.isnan(self.earned.half_credit[at])]
        columns = np.vstack([self.earned.half_credit, self.by_length])
        if not len(known) or np.isnan(columns[:, known]).any():
            return None
        of_rows = self.of_subset[known].tolist()
        found = overall_differences(
            columns[:, known].T,
            *strata_of(self.suite, of_rows),
            clusters=self.clusters[known],
            level=self.options.level,
        )
        better = 1 if found.values[1] >= found.values[2] else 2
        ahead = next(p.estimate for p in found.pairs if (p.a, p.b) == (0, better))
        longest, shortest = (self._weighted(column, names) for column in self.by_length)
        return LengthBaseline(longest, shortest, ahead)

    def _weighted(self, column: FloatArray, names: Sequence[str]) -> Estimate:
        """The accuracy of a column over some subsets, weighted as they are."""
        if self.suite.pooled:
            return self._accuracy(column, self._at(names))
        found = {name: self._accuracy(column, self._at([name])) for name in names}
        known = [name for name in names if found[name].value is not None]
        shares = weights_of(self.suite, known)
        return combined([found[name] for name in known], [shares[name] for name in known])

    def _views(self) -> dict[str, Estimate]:
        if self.suite.layout == BOTH_ORDERS:
            first = [
                np.nan if row.problem else float(_first_verdict(row, self.options.tie))
                for row in self.rows
            ]
            return {"single_game": self._accuracy(np.array(first), np.arange(len(self.rows)))}
        if not any(subset.rule == "styles" for subset in self.present):
            return {}
        whole = [i for i, row in enumerate(self.rows) if not row.problem]
        views = views_of_styles([self.rows[i] for i in whole], self.options.tie)
        found = {}
        for name, values in views._asdict().items():
            column = np.full(len(self.rows), np.nan)
            column[whole] = values
            found[name] = self._weighted(column, self._names)
        return found

    def _margins(self) -> Margins | None:
        """Of the pairs, where the reward model's output is a Bradley-Terry reward."""
        spec = self.rated.spec
        if spec is not None and spec.family.output != "bradley-terry":
            return None
        pairs = [i for i, r in enumerate(self.rows) if not r.problem and len(r.rewards) == 2]
        margin = np.array([self.rows[i].rewards[0] - self.rows[i].rewards[1] for i in pairs])
        sizes = np.array([self.rows[i].magnitude or 0 for i in pairs], dtype=np.int64)
        level, chance, scaled = self.options.level, expit(margin), sizes > 0
        clusters = self.clusters[np.array(pairs, dtype=np.int64)]
        error = expected_calibration_error(chance, np.ones(len(pairs)))
        rng = np.random.default_rng(self.options.seed)
        floor = calibration_floor(chance, level=level, rng=rng)
        if error is None or floor is None:  # no pairs
            return None
        return Margins(
            mean(bradley_terry_loss(margin), bounded=False, level=level, clusters=clusters),
            error,
            floor,
            mean(
                scaled_bradley_terry_loss(margin[scaled], sizes[scaled]),
                bounded=False,
                level=level,
                clusters=clusters[scaled],
            ),
        )

    def _notices(self, subsets: Mapping[str, Part]) -> Iterator[str]:
        problems = Counter(row.problem for row in self.rows if row.problem)
        for problem, n in problems.most_common(3):
            yield f"{count(n, 'row')} of {len(self.rows):,} without a verdict: {problem}"
        if more := sum(n for _, n in problems.most_common()[3:]):
            yield f"{count(more, 'more row')} without a verdict"
        if truncated := sum(row.truncated for row in self.rows):
            yield f"{count(truncated, 'row')} with tokens cut off"
        empty = [name for name, part in subsets.items() if part.score.strict.value is None]
        if empty:
            yield f"no verdict at all on {listing(empty)}: the overall is without"


def _first_verdict(row: RewardedRow, tie: float) -> bool:
    """JudgeBench's single game: a tie is taken for B>A, right where B is."""
    lead = row.rewards[0] - row.rewards[1]
    return lead > tie or (abs(lead) <= tie and row.position == 1)
