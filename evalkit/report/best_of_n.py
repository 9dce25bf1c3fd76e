"""What best of n is worth as text, Markdown, CSV, JSON and a curve; only lays out."""

from __future__ import annotations

import math
import textwrap
from dataclasses import asdict
from typing import TYPE_CHECKING

from evalkit.best_of_n import METRICS, BestOfN, Point
from evalkit.report.layout import (
    Writers,
    aligned,
    csv_lines,
    escape,
    json_document,
    markdown_signature,
    markdown_table,
)
from evalkit.report.tables import UNDEFINED, amount, rate
from evalkit.reward_models.spec import RewardModelSpec
from evalkit.statistics.intervals import Estimate
from evalkit.text import count, printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SCHEMA_VERSION = 1


def to_text(found: BestOfN) -> str:
    """The table for a terminal, what it says, notices and signature below."""
    table = [_head(found), *(_row(found, point) for point in found.points)]
    lines = [printable(_title(found))]
    lines += aligned(table)
    lines += [printable(line) for line in summary(found)]
    lines += [f"note: {printable(notice)}" for notice in found.notices]
    lines.append(f"signature: {printable(str(found.signature))}")
    return "\n".join(lines) + "\n"


def to_markdown(found: BestOfN) -> bytes:
    """The same as Markdown, with every prompt left out; text is escaped."""
    table = [_head(found), *(_row(found, point) for point in found.points)]
    lines = [escape(printable(_title(found))), "", *markdown_table(table), ""]
    lines += [f"- {escape(printable(line))}" for line in summary(found)]
    lines += [f"- note: {escape(printable(notice))}" for notice in found.notices]
    lines += [
        f"- left out: {escape(printable(f'{prompt_id}: {why}'))}"
        for prompt_id, why in found.left_out.items()
    ]
    lines.append(markdown_signature(found.signature))
    return ("\n".join(lines) + "\n").encode()


def to_csv(found: BestOfN) -> bytes:
    """Every estimate on a line, numbers in full; text cells cannot act as formulas."""
    records = list(found.records())
    return csv_lines(records)


def to_json(found: BestOfN) -> bytes:
    """The document as indented JSON, the same bytes on every run."""
    return json_document(document(found))


def document(found: BestOfN) -> dict[str, object]:
    """Everything a program needs; rates are fractions, undefined values null."""
    selector, scorer = found.models
    return {
        "schema_version": SCHEMA_VERSION,
        "checkpoint": found.checkpoint.name,
        "step": found.checkpoint.step,
        "reference": None if found.reference is None else found.reference.name,
        "selector": _model(selector),
        "scorer": None if found.models.are_one else _model(scorer),
        "prompts": found.prompts,
        "left_out": dict(found.left_out),
        "points": [
            {
                "k": point.k,
                "kl": point.kl,
                "n": point.n,
                "short": list(point.short),
                "estimates": {
                    name: asdict(point.estimates[name]) if name in point.estimates else None
                    for name in METRICS
                },
            }
            for point in found.points
        ],
        "truncated": found.truncated,
        "notices": list(found.notices),
        "signature": str(found.signature),
        "exit_code": 0,
    }


def _model(model: RewardModelSpec) -> dict[str, object]:
    return {
        "name": model.name,
        "fingerprint": model.fingerprint,
        "dtype": model.dtype,
        "family": model.family.name,
        "output": model.family.output,
    }


def to_svg(found: BestOfN) -> bytes:
    """Rewards and win rate against √KL."""
    from evalkit.report import plots

    return plots.render(figure(found), "svg")


def figure(found: BestOfN) -> Figure:
    """A panel for each reward model, whose units differ, and one for the win rate."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    from evalkit.report.plots import SETTINGS, STYLES, caption

    panels = _columns(found)
    names = [name for name in panels if not name.endswith("gain")]
    with mpl.rc_context(SETTINGS):
        drawn = Figure(figsize=(4.2 * len(names), 3.4), layout="constrained")
        axes = drawn.subplots(1, len(names), squeeze=False)[0]
        for panel, name, (colour, marker) in zip(axes, names, STYLES, strict=False):
            _draw(panel, found, name, (colour, marker))
            label = printable(panels[name]) + (", in %" if name == "win_rate" else "")
            panel.set_ylabel("\n".join(textwrap.wrap(label, 40)))
        caption(drawn, [_title(found), *summary(found), *found.notices], 70 * len(names))
    return drawn


def _draw(axes: Axes, found: BestOfN, name: str, style: tuple[str, str]) -> None:
    from evalkit.report.plots import GREY

    colour, marker = style
    scale = 100 if name == "win_rate" else 1
    estimates = [(math.sqrt(p.kl), p.estimates[name]) for p in found.points]
    known = [(x, scale * e.value) for x, e in estimates if e.value is not None]
    axes.plot([x for x, _ in known], [y for _, y in known], marker=marker, color=colour)
    for x, e in estimates:
        if e.low is not None and e.high is not None:
            axes.plot([x, x], [scale * e.low, scale * e.high], color=colour, linewidth=1)
    if name == "win_rate":
        axes.axhline(50, color=GREY, linewidth=1, linestyle="--")
        axes.set_ylim(0, 100)
    axes.set_xlabel("√KL of best of k, in √nats")
    above = axes.secondary_xaxis("top")
    above.set_xticks([math.sqrt(p.kl) for p in found.points], [str(p.k) for p in found.points])
    above.set_xlabel("k")


WRITERS = Writers[BestOfN](
    {
        ".json": to_json,
        ".csv": to_csv,
        ".md": to_markdown,
        ".svg": to_svg,
    }
)
check_output, write = WRITERS.check, WRITERS.write


def summary(found: BestOfN) -> list[str]:
    """What the largest k says, as the intervals support it and no further."""
    defined = [point for point in found.points if "gain" in point.estimates and point.n]
    if not defined:
        return []
    point, scorer = defined[-1], found.models.scorer
    gain = point.estimates["gain"]
    lines = [
        f"best of {point.k}: {found.models.selector.name} gives its pick {amount(gain)} more than "
        f"a plain completion of the same prompt ({count(point.n, 'prompt')})"
    ]
    if found.models.are_one:
        lines.append("the reward model that chooses is the one that scores: see --score-with")
    else:
        scored = point.estimates["scored_gain"]
        lines.append(f"by {scorer.name} that pick gains {amount(scored)}: {_verdict(scored)}")
    return lines


def _verdict(gain: Estimate) -> str:
    if gain.low is not None and gain.low > 0:
        return "both reward models prefer it"
    if gain.high is not None and gain.high < 0:
        return "worse than a plain completion, the choice is over-optimised"
    return "not separable from a plain completion"


def _title(found: BestOfN) -> str:
    selector, scorer = found.models
    scored = "" if found.models.are_one else f", scored by {_named(scorer)}"
    against = "" if found.reference is None else f" against {found.reference.name}"
    return (
        f"{found.checkpoint.name}{against}: best of k by {_named(selector)}{scored}; "
        f"{100 * found.options.level:g} % intervals over prompts"
    )


def _named(model: RewardModelSpec) -> str:
    return f"{model.name} #{model.fingerprint[:16]} ({model.dtype})"


def _columns(found: BestOfN) -> dict[str, str]:
    """The metrics there are, and what people call them."""
    selector, scorer = found.models
    columns = {"reward": f"reward by {selector.name}", "gain": "gain over k = 1"}
    if not found.models.are_one:
        columns["scored_reward"] = f"reward by {scorer.name}"
        columns["scored_gain"] = "its gain over k = 1"
    if found.reference is not None:
        columns["win_rate"] = f"win rate by {scorer.name}"
    return columns


def _head(found: BestOfN) -> list[str]:
    return ["k", "KL", "n", *(printable(name) for name in _columns(found).values())]


def _row(found: BestOfN, point: Point) -> list[str]:
    cells = [
        _cell(name, point.estimates[name]) if name in point.estimates else "-"
        for name in _columns(found)
    ]
    return [str(point.k), f"{point.kl:.3f}", f"{point.n}", *cells]


def _cell(name: str, estimate: Estimate) -> str:
    if estimate.value is None:
        return UNDEFINED
    return rate(estimate) if name == "win_rate" else amount(estimate)
