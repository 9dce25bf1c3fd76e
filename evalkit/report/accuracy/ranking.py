"""How several reward models compare on one suite, as tables and sentences."""

from __future__ import annotations

import math

from evalkit.accuracy.result import Ranking
from evalkit.report.layout import Block, group_lines
from evalkit.report.tables import UNDEFINED, difference, percent, rate
from evalkit.statistics.model_ranking import SubsetTest
from evalkit.text import count, listing, printable


def blocks(ranking: Ranking | None) -> list[Block]:
    """Ranks, differences, subset tests and agreement; nothing without a ranking."""
    if ranking is None:
        return []
    return [
        Block("Ranking", _ranks(ranking), _groups(ranking)),
        Block("Differences overall", _differences(ranking), [_adjusted(ranking)]),
        Block("Subset tests", [], _subsets(ranking)),
        Block("Agreement: same verdict (Cohen's kappa)", _agreement(ranking), _unanimous(ranking)),
    ]


def _ranks(ranking: Ranking) -> list[list[str]]:
    """Rank ranges, the highest overall first."""
    values = ranking.differences.values.tolist()
    best, worst = ranking.ranks.best.tolist(), ranking.ranks.worst.tolist()
    order = sorted(
        range(len(values)), key=lambda k: math.inf if math.isnan(values[k]) else -values[k]
    )
    return [
        ["ranks", "reward model", "accuracy"],
        *([f"{best[k]}–{worst[k]}", printable(ranking.names[k]), _share(values[k])] for k in order),
    ]


def _share(fraction: float) -> str:
    return UNDEFINED if math.isnan(fraction) else f"{percent(fraction)} %"


def _groups(ranking: Ranking) -> list[str]:
    names = ranking.names
    left_out = f"; without {listing(ranking.left_out)}" if ranking.left_out else ""
    return [
        f"on {count(ranking.n, 'row')} with a verdict of all of them{left_out}",
        *group_lines([[names[k] for k in group] for group in ranking.ranks.groups]),
    ]


def _differences(ranking: Ranking) -> list[list[str]]:
    names = ranking.names
    return [
        ["difference", "points", "p", "p (Holm)"],
        *(
            [
                printable(f"{names[pair.a]} − {names[pair.b]}"),
                difference(pair.estimate),
                _p(pair.p),
                _p(pair.p_holm),
            ]
            for pair in ranking.differences.pairs
        ),
    ]


def _adjusted(ranking: Ranking) -> str:
    pairs = count(len(ranking.differences.pairs), "difference")
    level = 100 * ranking.differences.level
    return f"paired by row; {level:g} % intervals each for itself, Holm over {pairs}"


def _p(p: float | None) -> str:
    return UNDEFINED if p is None else f"{p:.2g}"


def _subsets(ranking: Ranking) -> list[str]:
    """The significant ones, and how many were tested."""
    tests, alpha = ranking.subset_tests, 1 - ranking.differences.level
    found = [test for test in tests if test.p_holm is not None and test.p_holm < alpha]
    return [
        f"{len(found)} of {count(len(tests), 'test')} significant at {100 * alpha:g} % (exact "
        "McNemar, Holm over all of them)",
        *(_subset(ranking, test) for test in found),
    ]


def _subset(ranking: Ranking, test: SubsetTest) -> str:
    a, b = ranking.names[test.a], ranking.names[test.b]
    return (
        f"{test.subset}: {a} alone is right on {test.only_a}, {b} alone on {test.only_b} of "
        f"{count(test.n, 'row')}, p (Holm) = {_p(test.p_holm)}"
    )


def _agreement(ranking: Ranking) -> list[list[str]]:
    names = [printable(name) for name in ranking.names]
    shares, kappas = ranking.agreement.share.tolist(), ranking.agreement.kappa.tolist()
    return [
        ["", *names],
        *(
            [
                name,
                *(
                    "–" if i == j else f"{_share(shares[i][j])} ({_kappa(kappas[i][j])})"
                    for j in range(len(names))
                ),
            ]
            for i, name in enumerate(names)
        ),
    ]


def _kappa(kappa: float) -> str:
    return UNDEFINED if math.isnan(kappa) else f"{kappa:.2f}"


def _unanimous(ranking: Ranking) -> list[str]:
    found = ranking.agreement
    return [
        f"all of them give the same verdict on {rate(found.unanimous)} of rows; their mean "
        f"accuracy is {rate(found.accuracy_unanimous)} there and {rate(found.accuracy_contested)} "
        "on the others"
    ]
