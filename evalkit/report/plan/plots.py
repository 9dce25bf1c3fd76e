"""Detectable differences against the number of prompts, a line for each design."""

from __future__ import annotations

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator

from evalkit.plan import Plan
from evalkit.report.plots import GREY, SETTINGS, STYLES

DASHES = ("-", "--", ":", "-.")


def figure(plan: Plan) -> Figure:
    """Colour and marker (then width) tell completions apart, dashes references."""
    o = plan.options
    with mpl.rc_context(SETTINGS):
        found = Figure(figsize=(8.5, 4.6), layout="constrained")
        axes = found.subplots()
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.axhline(100 * o.detect, color=GREY, linewidth=1, linestyle="--")
        axes.axvline(plan.prompts, color=GREY, linewidth=1, linestyle=":")
        axes.annotate(
            "pilot", (plan.prompts, 0.98), xycoords=("data", "axes fraction"), fontsize=8,
            color=GREY, rotation=90, ha="right", va="top",
        )  # fmt: skip
        for d in plan.designs:
            k, r = o.completions.index(d.completions), o.references.index(d.references)
            colour, marker = STYLES[k % len(STYLES)]
            axes.plot(
                plan.grid,
                [100 * x for x in d.curve],
                label=f"{d.completions} × {d.references}",
                color=colour,
                linestyle=DASHES[r % len(DASHES)],
                linewidth=1.3 + k // len(STYLES),
            )
            axes.plot([d.prompts], [100 * o.detect], marker=marker, color=colour, markersize=5)
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:,g}"))
            axis.set_major_locator(mpl.ticker.LogLocator(subs=(1, 2, 5)))
            axis.set_minor_locator(NullLocator())
        axes.set_xlabel("prompts")
        axes.set_ylabel(f"detectable difference in points, {100 * o.power:g} % power")
        axes.legend(frameon=False, fontsize=8, title="completions × references", ncols=2)
    return found
