"""A calibration as text, Markdown, JSON and a reliability figure; computes nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING

import numpy as np

from evalkit.calibrate import Calibration, Group, Reliability
from evalkit.report.layout import (
    Writers,
    aligned,
    escape,
    images,
    json_document,
    markdown_signature,
    markdown_table,
)
from evalkit.report.tables import UNDEFINED, amount, rate
from evalkit.statistics.intervals import Estimate
from evalkit.text import count, printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SCHEMA_VERSION = 1
NO_TEMPERATURE: Mapping[str, str] = {
    "separable": "no margin is ever wrong, so the loss falls for ever as T goes to 0; harder or "
    "more pairs would bound it",
    "reversed": "rewards favour the rejected answers, and no T > 0 mends that",
    "uninformative": "rewards say nothing of which answer was chosen",
    "empty": "there are no pairs",
}


def verdict(c: Calibration) -> str:
    """One sentence: the temperature to pass on, or why there is none."""
    t = c.temperature
    if t.value is None:
        return f"No temperature ({t.state}): {NO_TEMPERATURE[t.state]}."
    interval = f"{100 * t.level:g} % CI [{_number(t.low)}, {_number(t.high)}]"
    found = f"Pass `evalkit compare --temperature {_number(t.value)}` ({interval})"
    if t.state == "weak":
        return f"{found}; weak: these pairs do not rule out that margins say nothing."
    if t.low is not None and t.high is not None and t.low <= 1 <= t.high:
        return f"{found}; 1 lies within: these pairs do not tell it from the raw probability."
    return f"{found}; {_gain(c.overall.estimates['held_out_gain'])}."


def _gain(gain: Estimate) -> str:
    """What the temperature is worth, as the interval supports it and no further."""
    if gain.value is None or gain.low is None or gain.high is None:
        return "what it is worth on other pairs is undefined"
    if gain.low > 0:
        return f"on pairs it has not seen it lowers the log loss by {amount(gain)}"
    if gain.high < 0:
        return f"but on pairs it has not seen it raises the log loss by {-gain.value:.3f}"
    return "on pairs it has not seen it changes the log loss by nothing measurable"


def _number(value: float | None) -> str:
    return "unbounded" if value is None else f"{value:.4g}"


def _measures(c: Calibration) -> list[list[str]]:
    """Measure, raw, calibrated; the first row is the head."""
    e, after = c.overall.estimates, c.calibrated
    held = amount(e["held_out_loss"])
    rows = [
        ["", "raw (T = 1)", f"calibrated (T = {_number(c.temperature.value)})"]
        if after
        else ["", "raw (T = 1)", "calibrated"],
        ["log loss (calibrated: on pairs not fitted to)", amount(e["bradley_terry_loss"]), held],
        ["Brier score", amount(e["brier_raw"]), amount(e["brier_calibrated"])],
        ["calibration error", *(_error(r) for r in (c.raw, after))],
        ["  of sampling alone, mean and upper end", *(_floor(r) for r in (c.raw, after))],
    ]
    scaled = e["scaled_bradley_terry_loss"]
    if scaled.n:
        label = f"scaled Bradley-Terry loss ({count(scaled.n, 'pair')} with a magnitude)"
        rows.append([label, amount(scaled), UNDEFINED])
    return rows


def _error(r: Reliability | None) -> str:
    return UNDEFINED if r is None else f"{r.error:.3f}"


def _floor(r: Reliability | None) -> str:
    return UNDEFINED if r is None else f"{r.floor.mean:.3f}, {r.floor.high:.3f}"


def _groups(c: Calibration) -> list[list[str]]:
    """Head, all pairs, and each subset."""
    head = ["", "n", "W/T/L", "accuracy", "with ties as half", "Bradley-Terry loss", "held out"]
    rows = [head, ["all pairs", *_cells(c.overall)]]
    return rows + [[printable(name), *_cells(group)] for name, group in c.subsets.items()]


def _cells(g: Group) -> list[str]:
    e = g.estimates
    return [
        f"{g.n}",
        f"{g.wins}/{g.ties}/{g.losses}",
        rate(e["accuracy"]),
        rate(e["accuracy_half_credit"]),
        amount(e["bradley_terry_loss"]),
        amount(e["held_out_loss"]),
    ]


def _notes(c: Calibration) -> list[str]:
    found = list(c.notices)
    if c.undefined_fits:
        fits = count(c.undefined_fits, "fit")
        found.append(f"{fits} of the cross-validation without a temperature: no held-out loss")
    return found


def _title(c: Calibration) -> str:
    model = c.reward_model
    name = (
        "rewards as given"
        if model is None
        else f"reward model {model.name} #{model.fingerprint[:16]} ({model.dtype})"
    )
    pairs, units = count(c.overall.n, "pair"), c.temperature.clusters
    return f"{name}; {pairs}, {units:,} independent; {100 * c.temperature.level:g} % intervals"


def to_text(c: Calibration) -> str:
    """Both tables for a terminal, the verdict, notices and signature below."""
    lines = [printable(_title(c))]
    for table in (_groups(c), _measures(c)):
        lines += aligned(table)
        lines.append("")
    lines.append(verdict(c))
    lines += [f"note: {printable(note)}" for note in _notes(c)]
    lines += [f"left out: {printable(line)}" for line in c.unscored]
    lines.append(f"signature: {printable(str(c.signature))}")
    return "\n".join(lines) + "\n"


def to_markdown(c: Calibration) -> bytes:
    """The same as Markdown; text is escaped."""
    lines = [f"{escape(printable(_title(c)))}", "", verdict(c), ""]
    for table in (_groups(c), _measures(c)):
        lines += [*markdown_table(table), ""]
    lines += [f"- note: {escape(printable(note))}" for note in _notes(c)]
    lines += [f"- left out: {escape(printable(line))}" for line in c.unscored]
    lines.append(markdown_signature(c.signature))
    return ("\n".join(lines) + "\n").encode()


def document(c: Calibration) -> dict[str, object]:
    """Everything a program needs; rates are fractions, undefined values null."""
    model = c.reward_model
    return {
        "schema_version": SCHEMA_VERSION,
        "pairs": c.source,
        "reward_model": None
        if model is None
        else {
            "name": model.name,
            "fingerprint": model.fingerprint,
            "dtype": model.dtype,
            "family": model.family.name,
            "output": model.family.output,
        },
        "temperature": asdict(c.temperature),
        "verdict": verdict(c),
        **_group(c.overall),
        "raw": _reliability(c.raw),
        "calibrated": None if c.calibrated is None else _reliability(c.calibrated),
        "undefined_fits": c.undefined_fits,
        "subsets": {name: _group(group) for name, group in c.subsets.items()},
        "unscored": list(c.unscored),
        "truncated": c.truncated,
        "notices": list(c.notices),
        "signature": str(c.signature),
        "exit_code": 0,
    }


def _group(g: Group) -> dict[str, object]:
    return {
        "n": g.n,
        "wins": g.wins,
        "ties": g.ties,
        "losses": g.losses,
        "estimates": {name: asdict(estimate) for name, estimate in g.estimates.items()},
    }


def _reliability(r: Reliability) -> dict[str, object]:
    columns = {name: column.tolist() for name, column in r.curve._asdict().items()}
    return {
        "temperature": r.temperature,
        "calibration_error": r.error,
        "floor": r.floor._asdict(),
        "curve": {
            name: [None if np.isnan(x) else x for x in values] for name, values in columns.items()
        },
    }


def to_json(c: Calibration) -> bytes:
    """The document as indented JSON, the same bytes on every run."""
    return json_document(document(c))


def figure(c: Calibration) -> Figure:
    """Confidence against outcome, raw and calibrated, each bin with its interval."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    from evalkit.report.plots import GREY, SETTINGS, caption

    with mpl.rc_context(SETTINGS):
        found = Figure(figsize=(6, 5), layout="constrained")
        axes = found.subplots()
        axes.plot([50, 100], [50, 100], color=GREY, linewidth=1, linestyle="--")
        for place, r in enumerate(filter(None, (c.raw, c.calibrated))):
            _draw(axes, r, place)
        axes.set_xlim(49, 101)
        axes.set_ylim(-2, 102)
        axes.set_xlabel("confidence in the preferred answer in %")
        level = f"{100 * c.temperature.level:g} % interval of each bin"
        axes.set_ylabel(f"how often it was the chosen one in %, {level}")
        axes.legend(frameon=False, fontsize=8, loc="lower left", bbox_to_anchor=(0, 1), ncols=2)
        caption(found, [_title(c), *c.notices], 95)
    return found


def _draw(axes: Axes, r: Reliability, place: int) -> None:
    from evalkit.report.plots import STYLES

    colour, marker = STYLES[place]
    known = r.curve.n > 0
    x, y = 100 * r.curve.confidence[known], 100 * r.curve.outcome[known]
    ends = 100 * np.array([r.curve.low[known], r.curve.high[known]])
    axes.vlines(x, ends[0], ends[1], color=colour, linewidth=1.2)
    name = "calibrated" if place else "raw"
    label = f"{name}, T = {_number(r.temperature)}: error {r.error:.3f}"
    axes.plot(x, y, marker=marker, markersize=4, color=colour, linewidth=1.2, label=label)


WRITERS = Writers[Calibration](
    {
        ".json": to_json,
        ".md": to_markdown,
        **images(figure),
    }
)
check_output, write = WRITERS.check, WRITERS.write
