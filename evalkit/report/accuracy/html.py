"""The page of an accuracy run, under the policy that all pages share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from evalkit.accuracy.result import Accuracies
from evalkit.report.accuracy import plots, tables
from evalkit.report.html import inline_svg, page
from evalkit.report.layout import Block
from evalkit.statistics.intervals import Method

METHODS: Mapping[Method, str] = {
    "logit-t": "Student's t on the logit",
    "betting": "the betting interval of Waudby-Smith and Ramdas",
    "t": "Student's t",
    "bca": "the BCa bootstrap",
    "wilson": "Wilson's score interval",
    "cumulants": "variances and third cumulants of the parts added",
    "undefined": "none",
}


def render(run: Accuracies, blocks: Sequence[Block]) -> bytes:
    """The page as UTF-8 bytes, the same on every run.

    Args:
        run: What is shown.
        blocks: Its results, then how several reward models compare.
    """
    return page(
        "accuracy.html.jinja",
        run=run,
        blocks=blocks,
        title=tables.title(run),
        named=tables.named,
        verdicts=tables.verdicts(run),
        legend=tables.legend(run),
        notices=tables.notices(run),
        credits=tables.CREDITS,
        level=f"{100 * tables.level(run):g}",
        methods=_methods(run),
        rules={subset.rule for subset in run.suite.subsets},
        figure=inline_svg(plots.forest(run), "forest", "Accuracies with intervals"),
    )


def _methods(run: Accuracies) -> dict[str, str]:
    """How the intervals of each kind of part were made."""
    found: dict[str, dict[str, None]] = {}
    for place in (tables.OVERALL, *tables.places(run)):
        for table in run.tables:
            if part := place.of(table):
                method = part.score.of(run.suite.credit).method
                found.setdefault(place.kind, {})[METHODS[method]] = None
    return {kind: " or ".join(methods) for kind, methods in found.items()}
