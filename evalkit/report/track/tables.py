"""What a tracked run says, in words and cells; percent and points appear here and not below."""

from __future__ import annotations

import math

from evalkit.gate.saved import ALARMS
from evalkit.report.layout import Block
from evalkit.report.tables import METRICS, UNDEFINED, percent, points, rate, share
from evalkit.statistics.agreement import Agreement
from evalkit.statistics.intervals import Estimate
from evalkit.statistics.over_optimisation import TOLERANCE, Change
from evalkit.statistics.tracking import DegradationLook
from evalkit.text import count, listing
from evalkit.track import Curve, Monitor, Point, Track
from evalkit.track.result import Consensus

NONE = "–"


def title(track: Track) -> str:
    """What was tracked, against what, on how much."""
    first = track.curves[0]
    return (
        f"{METRICS[track.options.metric]} of {count(len(first.points), 'checkpoint')} against "
        f"{track.reference}, on {count(len(first.prompt_id), 'prompt')} that all have; bands of "
        f"{100 * track.options.level:g} % hold at all checkpoints together"
    )


def verdicts(track: Track) -> list[str]:
    """A sentence for each curve: which checkpoint to take, its worth, and whether to worry."""
    return [
        f"{curve.reward_model}{side}: take {_taken(curve, METRICS[track.options.metric])}; "
        f"{_best(curve)}; {_alarm(curve, track)}."
        for curve, side in zip(track.curves, _sides(track), strict=True)
    ] + [_turned(monitor, track) for monitor in track.monitors]


def notices(track: Track) -> list[str]:
    """What a reader must know, each thing once."""
    read = [notice for curve in track.curves for notice in curve.read_steps]
    return list(dict.fromkeys([*notices_of_figure(track), *read]))


def notices_of_figure(track: Track) -> list[str]:
    """The same without where steps are from, which no reader of a figure needs."""
    return list(dict.fromkeys(notice for curve in track.curves for notice in curve.notices))


def blocks(track: Track) -> list[Block]:
    """The curves, what several reward models agree on, and the monitors."""
    found = [_curve(curve, track) for curve in track.curves]
    if track.consensus is not None:
        found.append(_consensus(track.consensus, track))
    return found + [_monitor(monitor, track) for monitor in track.monitors]


def at(point: Point) -> str:
    """A checkpoint with its step."""
    return f"{point.checkpoint} (step {point.step})"


def marks(curve: Curve) -> list[str]:
    """What each checkpoint is to the reader, and the alarms raised at it."""
    slow = curve.cusum.alarm.tolist()
    found = []
    for t, look in enumerate(curve.looks):
        role = "take" if t == curve.chosen.index else ""
        best = "could be best" if t in curve.best.members else ""
        alarms = ["ALARM: decline"] * look.alarm + ["ALARM: falls"] * slow[t]
        found.append(", ".join(filter(None, [role, best, *alarms])))
    return found


def _sides(track: Track) -> list[str]:
    """The part of each reward model in a run that is trained against the first of them."""
    if not track.monitors:
        return [""] * len(track.curves)
    return [" (proxy)", *[" (held out)"] * len(track.monitors)]


def _taken(curve: Curve, metric: str) -> str:
    found = curve.chosen
    best = "the best" if found.index == found.best else "the earliest within an error of the best"
    worth = f"{metric} {rate(found.corrected)} corrected for the choice"
    return f"{at(curve.points[found.index])}, {best}: {worth}, {share(found.naive)} as measured"


def _best(curve: Curve) -> str:
    members = [curve.points[t].checkpoint for t in curve.best.members]
    if len(members) == 1:
        return f"only {members[0]} could be the best"
    return f"{len(members)} of {len(curve.points)} could be the best: {listing(members)}"


def _alarm(curve: Curve, track: Track) -> str:
    if curve.alarms:
        return f"ALARM of a decline at {at(curve.points[curve.alarms[0]])}"
    if not curve.alarm_possible:
        window, points = track.options.window, count(len(curve.points), "checkpoint")
        return f"no alarm is possible yet, with {points} and a window of {window}"
    return "no alarm"


def _turned(monitor: Monitor, track: Track) -> str:
    names = f"{monitor.proxy} (proxy) and {monitor.held_out} (held out)"
    if monitor.alarmed:
        first = at(track.curves[0].points[monitor.alarmed[0]])
        return f"{names}: ALARM of over-optimisation at {first}: the first is up, the second down."
    if soft := monitor.alarms["soft"]:
        first = at(track.curves[0].points[soft[0]])
        return f"{names}: from {first} the first is up, the second has not moved; no alarm."
    return f"{names}: no alarm of over-optimisation."


def _curve(curve: Curve, track: Track) -> Block:
    metric = METRICS[track.options.metric]
    head = ["checkpoint", "step", f"{metric} [band]", "tokens", "window − best window",
            "at most", "p", "sum of falls", ""]  # fmt: skip
    rows = [
        [
            point.checkpoint,
            f"{point.step}",
            rate(_banded(point)),
            UNDEFINED if point.tokens is None else f"{point.tokens:.1f}",
            *_look(curve, look),
            _sum(curve, t),
            mark,
        ]
        for t, (point, look, mark) in enumerate(
            zip(curve.points, curve.looks, marks(curve), strict=True)
        )
    ]
    return Block(curve.reward_model, [head, *rows], [_bend(curve)])


def _banded(point: Point) -> Estimate:
    """The value with the band's ends, to be shown like any other."""
    e, band = point.estimate, point.band
    return Estimate(e.value, band.low, band.high, e.stderr, band.level, e.n, e.clusters, e.method)


def _look(curve: Curve, look: DegradationLook) -> list[str]:
    if look.best is None or look.difference is None:
        return [NONE, NONE, NONE]
    best = curve.points[look.best].checkpoint
    p = UNDEFINED if look.p is None else f"{look.p:.4f}"
    return [f"{points(look.difference)} (up to {best})", points(look.upper), p]


def _sum(curve: Curve, t: int) -> str:
    limit = float(curve.cusum.limits[t])
    return f"{curve.cusum.sums[t]:.2f} of {limit:.2f}" if math.isfinite(limit) else NONE


def _bend(curve: Curve) -> str:
    change = curve.change
    if change is None:
        return "change point: undefined below four checkpoints, or where they do not vary apart"
    low, high = (curve.points[t].step for t in (change.low, change.high))
    slopes = (f"{100_000 * slope:+.3g}" for slope in (change.before, change.after))
    return (
        f"change point: {at(curve.points[change.index])}, between steps {low} and {high} "
        f"({100 * change.level:g} %); points per 1,000 steps before and after: {', '.join(slopes)}"
    )


def _consensus(found: Consensus, track: Track) -> Block:
    names = [curve.reward_model for curve in track.curves]
    shares, kappas = found.agreement.share.tolist(), found.agreement.kappa.tolist()
    rows = [["two reward models", "order of checkpoints (τ_b)", "same verdict", "kappa"]]
    for (i, j), tau in found.orders.items():
        order = f"{tau.value:.2f} [{tau.low:.2f}, {tau.high:.2f}]" if tau else UNDEFINED
        kappa = UNDEFINED if math.isnan(kappas[i][j]) else f"{kappas[i][j]:.2f}"
        same = UNDEFINED if math.isnan(shares[i][j]) else f"{percent(shares[i][j])} %"
        rows.append([f"{names[i]}, {names[j]}", order, same, kappa])
    said = found.agreement
    last = track.curves[0].points[-1].checkpoint
    return Block(
        f"Agreement of {len(names)} reward models",
        rows,
        [
            f"verdicts on {last}, {said.unanimous.n} prompts: unanimous on {rate(said.unanimous)}, "
            f"win rate there {rate(said.accuracy_unanimous)}; contested: {contested(said)}, "
            f"win rate there {rate(said.accuracy_contested)}"
        ],
    )


def contested(said: Agreement) -> str:
    """The share of prompts on which verdicts differ."""
    value = said.unanimous.value
    return UNDEFINED if value is None else f"{percent(1 - value)} %"


def _monitor(monitor: Monitor, track: Track) -> Block:
    head = ["checkpoint", "step", "proxy", "held out", "gap", "proxy since best",
            "held out since best", "length", "its correlation with the proxy", ""]  # fmt: skip
    alarms = monitor.alarms
    rows = [
        [
            point.checkpoint,
            f"{point.step}",
            *map(_change, (x.a, x.b, x.gap, x.a_since_best, x.b_since_best)),
            _factor(monitor.length[x.step] if monitor.length else None),
            _change(monitor.length_correlation[x.step] if monitor.length_correlation else None),
            ", ".join(
                f"ALARM: {kind}" if kind in ALARMS else kind
                for kind, raised in alarms.items()
                if x.step in raised
            ),
        ]
        for point, x in zip(track.curves[0].points, monitor.looks, strict=True)
    ]
    return Block(
        f"Over-optimisation: {monitor.proxy} (proxy), {monitor.held_out} (held out)",
        [head, *rows],
        [
            f"changes in logits on {monitor.prompts} prompts, since the first checkpoint and since "
            "the best earlier window of the held-out one, with bounds that hold at all checkpoints",
            "hard: proxy up and held out down since the first; turned: the same since the best; "
            f"soft: proxy up, held out within ±{TOLERANCE:g}",
            "length: by what factor the mean tokens, prompt included, grew since the first; its "
            f"correlation over prompts with the {METRICS[track.options.metric]} under the proxy "
            "changed by so much: where both rise, the proxy may be rewarding length",
        ],
    )


def _change(change: Change | None) -> str:
    if change is None or not math.isfinite(change.value):
        return NONE
    ends = [
        UNDEFINED if x is None or not math.isfinite(x) else f"{x:+.2f}"
        for x in (change.low, change.high)
    ]
    return f"{change.value:+.2f} [{', '.join(ends)}]"


def _factor(change: Change | None) -> str:
    """A change of a logarithm as a factor."""
    if change is None:
        return NONE
    ends = [
        UNDEFINED if x is None or not math.isfinite(x) else f"{math.exp(x):.2f}"
        for x in (change.low, change.high)
    ]
    return f"×{math.exp(change.value):.2f} [{', '.join(ends)}]"
