"""The curve over training steps, and the proxy beside the held-out reward model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from evalkit.report.plots import GREY, SETTINGS, STYLES, short
from evalkit.report.tables import METRICS
from evalkit.statistics.over_optimisation import Change
from evalkit.track import Curve, Monitor, Track

RED = "#B00020"
MOST = 4  # curves in one figure, and as many monitors
LABEL = 40


def figure(track: Track) -> Figure:
    """A panel per reward model, then one per monitor, over the same steps."""
    curves, monitors = track.curves[:MOST], track.monitors[:MOST]
    count = len(curves) + len(monitors)
    with mpl.rc_context(SETTINGS):
        found = Figure(figsize=(8.5, 3.4 * count), layout="constrained")
        panels = np.atleast_1d(found.subplots(count, 1, sharex=True))
        for axes, curve in zip(panels, curves, strict=False):
            _draw_curve(axes, curve, METRICS[track.options.metric])
        steps = [point.step for point in track.curves[0].points]
        for axes, monitor in zip(panels[len(curves) :], monitors, strict=True):
            _draw_monitor(axes, monitor, steps)
        panels[-1].set_xlabel("training step")
        if len(track.curves) > MOST:
            panels[0].set_title(f"the first {MOST} of {len(track.curves)} reward models")
    return found


def _draw_curve(axes: Axes, curve: Curve, metric: str) -> None:
    colour = STYLES[0][0]
    steps = [point.step for point in curve.points]
    values = [100 * float(value) for value in curve.outcomes.mean(axis=0)]
    axes.axhline(50, color=GREY, linewidth=1, linestyle="--")
    if change := curve.change:
        axes.axvspan(steps[change.low], steps[change.high], color=GREY, alpha=0.15, linewidth=0)
        axes.axvline(
            steps[change.index], color=GREY, linewidth=1, label="change point, with its interval"
        )
    axes.plot(steps, values, color=colour, linewidth=1.2)
    for point in curve.points:
        if point.band.low is not None and point.band.high is not None:
            ends = [100 * point.band.low, 100 * point.band.high]
            axes.plot([point.step] * 2, ends, color=colour, linewidth=3, alpha=0.35)
    best = set(curve.best.members)
    _mark(axes, steps, values, [t for t in range(len(steps)) if t not in best], "surely not best",
          marker="o", color=colour, markerfacecolor="white")  # fmt: skip
    _mark(axes, steps, values, sorted(best), "could be best", marker="o", color=colour)
    _mark(axes, steps, values, [curve.chosen.index], "to take", marker="D", color=STYLES[2][0],
          markersize=11, markerfacecolor="none")  # fmt: skip
    _mark(axes, steps, values, curve.alarms, "alarm", marker="x", color=RED, markersize=9,
          markeredgewidth=2)  # fmt: skip
    axes.set_ylabel(f"{metric} in %, simultaneous bands")
    axes.set_title(short(curve.reward_model, LABEL), fontsize=9, loc="left")
    axes.legend(frameon=False, fontsize=8)


def _mark(
    axes: Axes, steps: Sequence[int], values: Sequence[float], at: Sequence[int], label: str,
    **style: Any,
) -> None:  # fmt: skip
    """Markers at some of the checkpoints, named in the legend if there are any."""
    if at:
        x, y = [steps[t] for t in at], [values[t] for t in at]
        axes.plot(x, y, linestyle="none", label=label, **style)


def _draw_monitor(axes: Axes, monitor: Monitor, steps: Sequence[int]) -> None:
    axes.axhline(0, color=GREY, linewidth=1, linestyle="--")
    sides = [
        (f"proxy: {short(monitor.proxy, LABEL)}", [x.a for x in monitor.looks]),
        (f"held out: {short(monitor.held_out, LABEL)}", [x.b for x in monitor.looks]),
    ]
    for (label, changes), (colour, marker) in zip(sides, STYLES, strict=False):
        values = [0.0 if change is None else change.value for change in changes]
        axes.plot(steps, values, color=colour, marker=marker, linewidth=1.2, label=label)
        for step, change in zip(steps, changes, strict=True):
            if ends := _ends(change):
                axes.plot([step] * 2, ends, color=colour, linewidth=3, alpha=0.35)
    held_out = [0.0 if x.b is None else x.b.value for x in monitor.looks]
    _mark(axes, steps, held_out, monitor.alarmed, "alarm: proxy up, held out down",
          marker="x", color=RED, markersize=9, markeredgewidth=2)  # fmt: skip
    axes.set_ylabel("change since the first, logits")
    axes.legend(frameon=False, fontsize=8)


def _ends(change: Change | None) -> list[float] | None:
    if change is None or change.low is None or change.high is None:
        return None
    ends = [change.low, change.high]
    return ends if bool(np.all(np.isfinite(ends))) else None
