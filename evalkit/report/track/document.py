"""The result of `track` as JSON: everything a program needs, undefined values null."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

from evalkit.gate.saved import SCHEMA_VERSION
from evalkit.report import gate
from evalkit.report.layout import csv_lines, json_document
from evalkit.statistics.agreement import Agreement
from evalkit.statistics.over_optimisation import TOLERANCE
from evalkit.track import Curve, Monitor, Track
from evalkit.track.result import Consensus

CHANGES = {  # of the two reward models of a monitor; what the statistics call them
    "proxy": "a",
    "held_out": "b",
    "gap": "gap",
    "proxy_since_best": "a_since_best",
    "held_out_since_best": "b_since_best",
}


def to_json(track: Track) -> bytes:
    """The document as indented JSON, the same bytes on every run."""
    return json_document(_nulls(document(track)))


def to_csv(track: Track) -> bytes:
    """A row per checkpoint and reward model, numbers in full, undefined ones empty."""
    found = _nulls(document(track))
    shared = {key: found[key] for key in ("reference", "metric")}
    return csv_lines(
        [
            {**_row(point, curve), **shared, "notices": "; ".join(curve["notices"])}
            | {"signature": found["signature"]}
            for curve in found["curves"]
            for point in curve["checkpoints"]
        ]
    )


def _row(point: dict[str, Any], curve: dict[str, Any]) -> dict[str, Any]:
    estimate, band = point["estimate"], point["band"]
    return {
        "reward_model": curve["reward_model"],
        **{key: point[key] for key in ("checkpoint", "step")},
        **{
            key: estimate[key] for key in ("value", "low", "high", "stderr", "level", "n", "method")
        },
        "band_low": band["low"],
        "band_high": band["high"],
        "tokens": point["tokens"],
        "take": point["checkpoint"] == curve["chosen"]["checkpoint"],
        **{key: point[key] for key in ("could_be_best", "p_best")},
        **{f"{watch}_{key}": x for watch in ("window", "falls") for key, x in point[watch].items()},
    }


def document(track: Track) -> dict[str, Any]:
    """Rates are fractions, changes logits; `upper` and limits that no resample reaches are null."""
    options = track.options
    return {
        "schema_version": SCHEMA_VERSION,
        "reference": track.reference,
        "metric": options.metric,
        "temperature": options.temperature,
        "level": options.level,
        "planned": options.planned,
        "window": options.window,
        "tolerance": TOLERANCE,
        "ties": str(options.ties),
        "missing": options.missing,
        "seed": options.seed,
        "proxy": options.proxy,
        "curves": [_curve(curve, track) for curve in track.curves],
        "agreement": _consensus(track.consensus, track) if track.consensus else None,
        "monitors": [_monitor(monitor, track) for monitor in track.monitors],
        "alarmed": track.alarmed,
        "verdict": gate.document(track.verdict) if track.verdict else None,
        "signature": str(track.signature),
        "exit_code": track.exit_code,
    }


def _curve(curve: Curve, track: Track) -> dict[str, Any]:
    names = [point.checkpoint for point in curve.points]
    chosen, change = curve.chosen, curve.change
    return {
        "reward_model": curve.reward_model,
        "n": len(curve.prompt_id),
        "chosen": {
            "checkpoint": names[chosen.index],
            "highest": names[chosen.best],
            "corrected": asdict(chosen.corrected),
            "naive": asdict(chosen.naive),
        },
        "best_set": [names[t] for t in curve.best.members],
        "alarms": [names[t] for t in curve.alarms],
        "alarm_possible": curve.alarm_possible,
        "change_point": change
        and {
            "checkpoint": names[change.index],
            "low": names[change.low],
            "high": names[change.high],
            "slope_before": change.before,
            "slope_after": change.after,
            "level": change.level,
        },
        "checkpoints": [_point(curve, t) for t in range(len(names))],
        "differences": [
            {
                "checkpoint": names[-1],
                "against": name,
                "reference": track.reference,
                "metrics": {"": {track.options.metric: asdict(difference)}},
            }
            for name, difference in zip(names, curve.differences, strict=False)
        ],
        "left_out": list(curve.left_out),
        "notices": [*curve.notices, *curve.read_steps],
    }


def _point(curve: Curve, t: int) -> dict[str, Any]:
    point, look = curve.points[t], curve.looks[t]
    best = None if look.best is None else curve.points[look.best].checkpoint
    return {
        "checkpoint": point.checkpoint,
        "step": point.step,
        "estimate": asdict(point.estimate),
        "band": asdict(point.band),
        "tokens": point.tokens,
        "could_be_best": t in curve.best.members,
        "p_best": float(curve.best.p[t]),
        "window": {
            "best": best,
            "difference": look.difference,
            "upper": look.upper,
            "p": look.p,
            "alarm": look.alarm,
        },
        "falls": {
            "sum": float(curve.cusum.sums[t]),
            "limit": float(curve.cusum.limits[t]),
            "alarm": bool(curve.cusum.alarm[t]),
        },
    }


def _consensus(found: Consensus, track: Track) -> dict[str, Any]:
    names, said = [curve.reward_model for curve in track.curves], found.agreement
    unanimous = said.unanimous.value
    return {
        "prompts": found.prompts,
        "checkpoint": track.curves[0].points[-1].checkpoint,
        "pairs": [
            {"reward_models": [names[i], names[j]], **_pair(said, i, j), "kendall": tau and {
                "value": tau.value, "low": tau.low, "high": tau.high, "level": tau.level,
                "checkpoints": tau.checkpoints, "resamples": tau.resamples,
            }}
            for (i, j), tau in found.orders.items()
        ],
        "unanimous": asdict(said.unanimous),
        "contested_share": None if unanimous is None else 1 - unanimous,
        "win_rate_unanimous": asdict(said.accuracy_unanimous),
        "win_rate_contested": asdict(said.accuracy_contested),
    }  # fmt: skip


def _pair(said: Agreement, i: int, j: int) -> dict[str, Any]:
    return {
        "n": int(said.n[i, j]),
        "same_verdict": float(said.share[i, j]),
        "kappa": float(said.kappa[i, j]),
    }


def _monitor(monitor: Monitor, track: Track) -> dict[str, Any]:
    names = [point.checkpoint for point in track.curves[0].points]
    alarms = monitor.alarms
    return {
        "proxy": monitor.proxy,
        "held_out": monitor.held_out,
        "n": monitor.prompts,
        "alarms": {kind: [names[t] for t in found] for kind, found in alarms.items()},
        "checkpoints": [
            {
                "checkpoint": names[x.step],
                **{
                    said: change and change._asdict()
                    for said, name in CHANGES.items()
                    for change in [getattr(x, name)]
                },
                **{
                    name: drift and (change := drift[x.step]) and change._asdict()
                    for name in ("length", "length_correlation")
                    for drift in [getattr(monitor, name)]
                },
                "best": None if x.best is None else names[x.best],
                **{kind: getattr(x, kind) for kind in alarms},
            }
            for x in monitor.looks
        ],
    }


def _nulls(value: Any) -> Any:
    """The same with null in place of NaN and infinity."""
    if isinstance(value, dict):
        return {key: _nulls(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_nulls(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
