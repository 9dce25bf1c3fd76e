"""Several questions at once: corrected p-values, and bands that hold for all columns together.

Max-t bands where columns share prompts, Holm where only p-values are at hand, Benjamini-Hochberg
for exploration, where a known share of false alarms is acceptable. Bonferroni is the yardstick.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy.special import expit, logit, ndtri, stdtr

from evalkit.data import FloatArray, IntArray
from evalkit.statistics.clusters import Clustering, clustering
from evalkit.statistics.intervals import Estimate, defined, mean
from evalkit.statistics.resampling import Keys, as_student, weight_blocks


def bonferroni(p: npt.ArrayLike) -> FloatArray:
    """Each p-value times their number: the chance of any false alarm at most the level.

    Args:
        p: (m,) in [0, 1].

    Returns:
        (m,) adjusted, in the order given, at most 1.

    Raises:
        ValueError: None, NaN or a value outside [0, 1]: leave undefined tests out knowingly.
    """
    given = _checked(p)
    return np.minimum(1.0, len(given) * given)


def holm(p: npt.ArrayLike) -> FloatArray:
    """Step-down Bonferroni (Holm 1979, Scand. J. Statist. 6:65): same promise, more power.

    Args:
        p: (m,) in [0, 1]; ties get equal answers.

    Returns:
        (m,) adjusted, in the order given, at most 1.

    Raises:
        ValueError: None, NaN or a value outside [0, 1].
    """
    given = _checked(p)
    order = np.argsort(given, kind="stable")
    steps = (len(given) - np.arange(len(given))) * given[order]
    return _placed(np.maximum.accumulate(steps), order)


def holm_where_defined(p: Sequence[float | None]) -> list[float | None]:
    """Holm's correction over the tests that have a p-value; None stays None and does not count."""
    adjusted = iter(holm([value for value in p if value is not None]).tolist())
    return [None if value is None else next(adjusted) for value in p]


def benjamini_hochberg(p: npt.ArrayLike) -> FloatArray:
    """The expected share of false alarms among alarms (1995, JRSS-B 57:289): exploration only.

    Holds for independent or positively dependent tests.

    Args:
        p: (m,) in [0, 1]; ties get equal answers.

    Returns:
        (m,) adjusted, in the order given, at most 1.

    Raises:
        ValueError: None, NaN or a value outside [0, 1].
    """
    given = _checked(p)
    order = np.argsort(given, kind="stable")
    steps = (len(given) / np.arange(1, len(given) + 1)) * given[order]
    return _placed(np.minimum.accumulate(steps[::-1])[::-1], order)


def _checked(p: npt.ArrayLike) -> FloatArray:
    given = np.asarray(p, dtype=np.float64)  # None becomes NaN
    if given.ndim != 1:
        raise ValueError(f"p-values come in one dimension, not {given.ndim}")
    if not np.all((given >= 0) & (given <= 1)):
        raise ValueError("p-values lie in [0, 1]; leave out tests that have none")
    return given


def _placed(adjusted: FloatArray, order: npt.NDArray[np.intp]) -> FloatArray:
    found = np.empty_like(adjusted)
    found[order] = np.minimum(1.0, adjusted)
    return found


@dataclass(frozen=True, slots=True)
class Band:
    """One column of simultaneous bands: the fields of an `Estimate`, and a p-value.

    Attributes:
        value: Mean of the column, never None.
        low: Lower end; None where the column has no variance or a single cluster, or, if bounded,
            a mean of 0 or 1.
        high: Upper end, None with `low`.
        stderr: Clustered standard error; None for fewer than two clusters.
        p: Max-t adjusted, two-sided, that the mean is 0 (½ if bounded), in [1/(B+1), 1]: at most
            1 − level just where the band leaves that value out. Without a band 1 if every row is
            exactly that value, else None.
        level: Chance that all bands together hold their means.
        n: Rows averaged.
        clusters: Independent units among them.
        method: How the band was made.
        resamples: Bootstrap draws behind it, 0 if none.
        seed: Of the resamples.
    """

    value: float | None
    low: float | None
    high: float | None
    stderr: float | None
    p: float | None
    level: float
    n: int
    clusters: int
    method: Literal["max-t", "undefined"]
    resamples: int = 0
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Bands:
    """Simultaneous bands of several columns.

    Attributes:
        bands: One a column, in order.
        critical: Standard errors on either side of a value; None if no column has a band.
    """

    bands: tuple[Band, ...]
    critical: float | None


def max_t_bands(
    columns: FloatArray,
    *,
    keys: Keys,
    resamples: int,
    level: float = 0.95,
    clusters: IntArray | None = None,
    bounded: bool = False,
    seed: int = 0,
) -> Bands:
    """Intervals that hold for the means of all columns at once (single-step max-t).

    Bootstrap means of all columns under common weights, linearised and in analytic CR1 standard
    errors; the critical value is a quantile of their largest size over the columns (Romano and
    Wolf 2005, JASA 100:94), so the more the columns move together, the less it costs to ask about
    many. Such draws are near normal however few the clusters: the quantile is carried over to
    Student's t with C − 1 degrees of freedom at equal tail probability, by which a single column
    gets its t interval. Under 50 clusters of skewed columns the bands hold less than they say.

    Args:
        columns: (n, k) float64, finite; row i is prompt i in every column.
        keys: (n,) bootstrap keys, equal within a cluster, seed included.
        resamples: B, at least level / (1 − level), or the quantile does not exist.
        level: Chance that all bands hold, in (0, 1).
        clusters: (n,) cluster of each row; each row its own if None.
        bounded: Whether the columns are of rates or probabilities: bands on the logit scale, which
            stay in (0, 1), and p-values against ½ instead of 0.
        seed: Of the keys; recorded.

    Returns:
        The bands; neither row order nor that of columns moves them by more than rounding. Columns
        without a standard error get none and do not widen the others'.

    Raises:
        ValueError: No rows, NaN or infinity, values outside [0, 1] although bounded, keys of
            another length, a level outside (0, 1), too few resamples.
    """
    _check(columns, keys, bounded=bounded)
    rank = math.ceil(level * (resamples + 1))
    if rank > resamples:
        raise ValueError(f"{resamples} resamples are too few for the level {level}")
    grouped = clustering(len(columns), clusters)
    label, units = grouped.label, len(grouped.first)
    means = [mean(x, bounded=False, level=level, clusters=label, seed=seed) for x in columns.T]
    centre, spread = _on_scale(means, bounded=bounded)
    able = ~np.isnan(spread)
    maxima = _sorted_maxima(_deviations(columns[:, able], grouped), keys[grouped.first], resamples)
    critical = as_student(float(maxima[rank - 1]), units - 1)
    low, high = centre - critical * spread, centre + critical * spread
    if bounded:
        low, high = expit(low), expit(high)
    as_normal = -ndtri(stdtr(units - 1, -np.abs(centre / spread)))
    p = (1 + resamples - np.searchsorted(maxima, as_normal)) / (1 + resamples)
    null = np.all(columns == (0.5 if bounded else 0.0), axis=0)
    p = np.where(able, p, np.where(null, 1.0, np.nan))
    ends = zip(low.tolist(), high.tolist(), p.tolist(), strict=True)
    bands = [_band(of, *found, resamples) for of, found in zip(means, ends, strict=True)]
    return Bands(tuple(bands), defined(float(critical)))


def _check(columns: FloatArray, keys: Keys, *, bounded: bool) -> None:
    if columns.ndim != 2 or not len(columns) or len(keys) != len(columns):
        raise ValueError(f"columns are (n, k) with n keys, not {columns.shape} and {len(keys)}")
    if bounded and not np.all((columns >= 0) & (columns <= 1)):
        raise ValueError("bounded columns must lie in [0, 1]")


def _on_scale(means: list[Estimate], *, bounded: bool) -> tuple[FloatArray, FloatArray]:
    """Centres and standard errors on the scale of the bands, where the null is 0; NaN for none."""
    value = np.array([estimate.value for estimate in means], dtype=np.float64)
    spread = np.array([estimate.stderr or np.nan for estimate in means], dtype=np.float64)
    if not bounded:
        return value, spread
    slope = value * (1 - value)
    slope[slope == 0] = np.nan
    return logit(value), spread / slope


def _deviations(columns: FloatArray, grouped: Clustering) -> FloatArray:
    """(C, k) what each cluster adds to (bootstrap mean − mean) / stderr, of variance exactly 1."""
    sums = grouped.sums(columns - columns.mean(axis=0))
    scaled: FloatArray = sums / np.sqrt(np.sum(sums**2, axis=0))
    return scaled


def _sorted_maxima(deviations: FloatArray, keys: Keys, resamples: int) -> FloatArray:
    """(B,) largest size over the columns in each draw, ascending; NaN without a column."""
    if not deviations.size:
        return np.full(resamples, np.nan)
    blocks = weight_blocks(keys, resamples)
    return np.sort(np.concatenate([np.abs(block @ deviations).max(axis=1) for block in blocks]))


def _band(estimate: Estimate, low: float, high: float, p: float, resamples: int) -> Band:
    made = not math.isnan(low)
    return Band(
        value=estimate.value,
        low=defined(low),
        high=defined(high),
        stderr=estimate.stderr,
        p=defined(p),
        level=estimate.level,
        n=estimate.n,
        clusters=estimate.clusters,
        method="max-t" if made else "undefined",
        resamples=resamples if made else 0,
        seed=estimate.seed,
    )
