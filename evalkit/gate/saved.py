"""The saved result of `evalkit compare` or `evalkit track`, as far as a gate needs it.

What is absent is told apart from what is malformed: a rule on the first fails, the second is
refused, since no verdict may come from a fault. So is a rule on what a result of its kind never
has, since that says nothing of the checkpoint.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evalkit.errors import InputError
from evalkit.gate.policy import ALARM, METRICS, RATES, Rule
from evalkit.statistics.gates import Interval
from evalkit.text import clip, listing

SCHEMA_VERSION = 1  # of what `evalkit compare` and `evalkit track` save
LEVELS, MOST_ROWS, LARGEST = (1e-6, 1 - 1e-9), 10**12, 1e100  # beyond them nothing is a result
ALARMS = ("hard", "turned")  # of a monitor; what is soft is no alarm
SAME_DIFFERENCE = {"margin": "mean_reward"}  # against one reference
ANEW = "write it anew: evalkit compare … -o result.json, or evalkit track … -o run.json"


@dataclass(frozen=True, slots=True)
class Difference:
    """A metric of a checkpoint minus that of its baseline, on `prompts` of which some decide."""

    interval: Interval
    prompts: int
    deciding: int


class SavedResult:
    """What a saved result says under one reward model.

    Args:
        comparisons: Its rows, of checkpoint and reference, as `evalkit compare` saves them.
        differences: Its rows, of two checkpoints.
        reward_model: Of a tracked run, which may have several; else empty.

    Raises:
        InputError: It is malformed where it was looked at; so do all methods.
    """

    def __init__(self, comparisons: object, differences: object, reward_model: str = "") -> None:
        rows = _list(comparisons, "comparisons")
        self.reward_model = reward_model
        self._comparisons = {
            (_text(c, "checkpoint"), _text(c, "reference")): c
            for c in (_table(row, "comparisons") for row in rows)
        }
        if not rows or len(self._comparisons) < len(rows):
            raise InputError("no comparison, or the same one twice", where="comparisons", fix=ANEW)
        self._differences = [
            _table(row, "differences") for row in _list(differences, "differences")
        ]

    @property
    def checkpoints(self) -> list[str]:
        """By training step if all steps are known and differ, else as they were named."""
        steps = {name: c.get("step") for (name, _), c in self._comparisons.items()}
        known = {name: step for name, step in steps.items() if type(step) is int}
        if len(set(known.values())) < len(steps):
            return list(steps)
        return sorted(known, key=lambda name: known[name])

    @property
    def to_test(self) -> Sequence[str]:
        """All checkpoints; of a run the newest, which is what a look at it asks about."""
        return self.checkpoints[-1:] if self.reward_model else self.checkpoints

    @property
    def model(self) -> str:
        """The name of its reward model; empty where it does not say."""
        if self.reward_model:
            return self.reward_model.rpartition("#")[0]
        stated = next(iter(self._comparisons.values())).get("reward_model")
        name = stated.get("name") if isinstance(stated, dict) else None
        return name if isinstance(name, str) else ""

    def is_first(self, checkpoint: str) -> bool:
        """Whether it is the first of a run, which has none before it yet."""
        return bool(self.reward_model) and checkpoint == self.checkpoints[0]

    @property
    def references(self) -> list[str]:
        """As they were named."""
        return list(dict.fromkeys(reference for _, reference in self._comparisons))

    @property
    def level(self) -> float | None:
        """Of the intervals, as they were made; None if there is none."""
        rows = (_table(c.get("estimates") or {}, "estimates") for c in self._comparisons.values())
        found = (_table(e, name) for row in rows for name, e in row.items() if e is not None)
        return next((_number(estimate, "level") for estimate in found), None)

    def compared(self, checkpoint: str, reference: str) -> bool:
        """Whether the two were compared."""
        return (checkpoint, reference) in self._comparisons

    def left_out(self, checkpoint: str, reference: str) -> set[str]:
        """Prompts that could not be paired or scored."""
        unmatched = _table(self._comparisons[checkpoint, reference].get("unmatched"), "unmatched")
        missing = ("missing_in_checkpoint", "missing_in_reference")
        without = {i for key in missing for i in _names(unmatched.get(key), key)}
        return without | {*_table(unmatched.get("unscored"), "unscored")}

    def subsets(self, checkpoint: str, reference: str) -> Mapping[str, Any]:
        """The subsets of a comparison."""
        return _table(self._comparisons[checkpoint, reference].get("subsets"), "subsets")

    def estimate(
        self, checkpoint: str, reference: str, metric: str, subset: str = ""
    ) -> Interval | None:
        """An estimate; None if the result does not have it.

        A win rate at equal lengths that is an extrapolation has no interval.
        """
        found: Any = self._comparisons[checkpoint, reference]
        path = ("subsets", subset, metric) if subset else METRICS[metric]
        for key in path:
            found = _table(found, key).get(key)
            if found is None:
                return None
        interval = _interval(found, metric)
        if metric in RATES and any(not 0 <= x <= 1 for x in interval[:3] if x is not None):
            _malformed(found, metric)
        if metric == "length_controlled_win_rate":
            controlled = self._comparisons[checkpoint, reference]["lengths"]["controlled"]
            if controlled.get("state") != "ok":
                return interval._replace(low=None, high=None, stderr=None)
        return interval

    def difference(
        self, checkpoint: str, baseline: str, reference: str, metric: str, subset: str = ""
    ) -> Difference | None:
        """Checkpoint − baseline against one reference; None if the result does not have it."""
        for row in self._differences:
            pair = (_text(row, "checkpoint"), _text(row, "against"))
            if _text(row, "reference") != reference or set(pair) != {checkpoint, baseline}:
                continue
            found = _of_metric(row, metric, subset)
            if found is None:
                return None
            interval = _interval(found.get("estimate"), "difference")
            prompts, deciding = _whole(found, "prompts"), _whole(found, "deciding")
            if not prompts or deciding > prompts:
                _malformed(deciding, "deciding")
            turned = pair != (checkpoint, baseline)
            return Difference(_turned(interval) if turned else interval, prompts, deciding)
        return None


def _of_metric(row: Mapping[str, Any], metric: str, subset: str) -> Mapping[str, Any] | None:
    """The part of a row of `differences`; that of the win rate of all prompts is the row's own."""
    by_metric = _table(_table(row.get("metrics", {}), "metrics").get(subset, {}), "metrics")
    column = SAME_DIFFERENCE.get(metric, metric)
    if column in by_metric:
        return _table(by_metric[column], column)
    if (metric, subset) == ("win_rate", ""):
        return {**row, "estimate": _table(row.get("difference"), "difference").get("estimate")}
    return None


def saved_results(result: Mapping[str, Any]) -> list[SavedResult]:
    """A saved result, reward model by reward model; that of `evalkit compare` has one.

    Raises:
        InputError: It is of another command or schema, or malformed.
    """
    version = result.get("schema_version")
    known = version == SCHEMA_VERSION and not isinstance(version, bool)
    if known and "comparisons" in result:
        return [SavedResult(result["comparisons"], result.get("differences"))]
    if known and result.get("curves"):
        curves = _list(result["curves"], "curves")
        return [_of_curve(result, _table(curve, "curves")) for curve in curves]
    raise InputError(
        f"not a result of `evalkit compare` or `evalkit track` of schema {SCHEMA_VERSION}",
        where=f"schema_version {clip(version)}",
        fix=ANEW,
    )


def saved_level(result: Mapping[str, Any]) -> float | None:
    """The level of a saved result's own intervals; None if it has none.

    Raises:
        InputError: As `saved_results`.
    """
    return saved_results(result)[0].level


def check_answerable(result: Mapping[str, Any], rules: Sequence[Rule]) -> None:
    """Refuse rules on what no result of this kind has: alarms of a comparison, subsets of a run.

    Raises:
        InputError: Naming what, and what would answer it; or the result is malformed.
    """
    for rule in rules:
        if what := _unanswerable(result, rule):
            other = "run" if rule.metric == ALARM else "comparison"
            fix = f"gate a {other} by this rule; --policy FILE takes rules for this result alone"
            raise InputError(what, fix=fix)


def _unanswerable(result: Mapping[str, Any], rule: Rule) -> str:
    if "comparisons" in result:
        return "a comparison has no alarms" if rule.metric == ALARM else ""
    if rule.subset:
        return f"a run keeps no subsets, such as {rule.subset!r} of the rule on {rule.metric}"
    tracked = _text(result, "metric")
    known = rule.metric in {ALARM, tracked}
    return "" if known else f"the run tracks {tracked}; it has no {rule.metric}, of which a rule is"


def saved_alarms(run: Mapping[str, Any]) -> list[str]:
    """What alarms a saved run raises, a line each, but for soft ones.

    Raises:
        InputError: It is malformed.
    """
    return list(_raised(run))


def alarm_is_possible(run: Mapping[str, Any]) -> bool:
    """Whether a saved run has as many checkpoints as an alarm of a decline takes.

    Raises:
        InputError: It is malformed.
    """
    curves = [_table(row, "curves") for row in _list(run["curves"], "curves")]
    return any(curve.get("alarm_possible") is not False for curve in curves)


def saved_left_out(run: Mapping[str, Any]) -> int:
    """How many prompts the curves of a saved run leave out, under one reward model or another.

    Raises:
        InputError: It is malformed.
    """
    curves = [_table(row, "curves") for row in _list(run["curves"], "curves")]
    return len({i for curve in curves for i in _names(curve.get("left_out"), "left_out")})


def _raised(run: Mapping[str, Any]) -> Iterator[str]:
    for curve in (_table(row, "curves") for row in _list(run["curves"], "curves")):
        if at := _names(curve.get("alarms"), "alarms"):
            yield f"decline under {_text(curve, 'reward_model')} at {listing(at)}"
    for monitor in (_table(row, "monitors") for row in _list(run.get("monitors"), "monitors")):
        pair = f"{_text(monitor, 'proxy')} against {_text(monitor, 'held_out')}"
        kinds = _table(monitor.get("alarms"), "alarms")
        for kind in ALARMS:
            if at := _names(kinds.get(kind), kind):
                yield f"over-optimisation ({kind}) of {pair} at {listing(at)}"


def _names(found: object, where: str) -> list[str]:
    rows = _list(found, where)
    return rows if all(isinstance(name, str) for name in rows) else _malformed(found, where)


def _of_curve(run: Mapping[str, Any], curve: Mapping[str, Any]) -> SavedResult:
    """A curve of `evalkit track` as the comparisons it was made of, on the prompts they share."""
    reference, metric = _text(run, "reference"), _text(run, "metric")
    left_out = {
        "missing_in_checkpoint": _list(curve.get("left_out"), "left_out"),
        "missing_in_reference": [],
        "unscored": {},
    }
    comparisons = [
        {
            "checkpoint": _text(row, "checkpoint"),
            "step": _whole(row, "step"),
            "reference": reference,
            "estimates": {metric: row.get("estimate")},
            "subsets": {},
            "unmatched": left_out,
        }
        for row in (_table(r, "checkpoints") for r in _list(curve.get("checkpoints"), "curves"))
    ]
    return SavedResult(comparisons, curve.get("differences"), _text(curve, "reward_model"))


def read_result(path: Path) -> dict[str, Any]:
    """The JSON of a saved result.

    Raises:
        InputError: It cannot be read, or is no JSON object of text and finite numbers.
    """
    try:
        found = json.loads(path.read_bytes(), parse_constant=_refuse)
        json.dumps(found, ensure_ascii=False).encode()  # a lone surrogate is no text
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: {error}", fix=ANEW) from None
    return dict(_table(found, str(path)))


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no number")


def _interval(found: object, where: str) -> Interval:
    row = _table(found, where)
    value, low, high, stderr = (_number(row, key) for key in ("value", "low", "high", "stderr"))
    level = _number(row, "level")
    backwards = low is not None and high is not None and low > high
    n, clusters = _whole(row, "n"), _whole(row, "clusters")
    sized = clusters <= n <= MOST_ROWS and (value is None or clusters > 0)
    sure = level is not None and LEVELS[0] <= level <= LEVELS[1]
    if level is None or not (sure and sized) or backwards or (stderr or 0) < 0:
        raise InputError("an interval that is none", where=f"{where} {clip(found)}", fix=ANEW)
    return Interval(value, low, high, stderr, level, n, clusters, _text(row, "method"))


def _turned(i: Interval) -> Interval:
    value, low, high = (None if x is None else -x for x in (i.value, i.high, i.low))
    return i._replace(value=value, low=low, high=high)


def _table(found: object, where: str) -> Mapping[str, Any]:
    return found if isinstance(found, dict) else _malformed(found, where)


def _list(found: object, where: str) -> list[Any]:
    return found if isinstance(found, list) else _malformed(found, where)


def _text(row: Mapping[str, Any], key: str) -> str:
    return found if isinstance(found := row.get(key), str) else _malformed(found, key)


def _whole(row: Mapping[str, Any], key: str) -> int:
    found = row.get(key)
    return found if type(found) is int and found >= 0 else _malformed(found, key)


def _number(row: Mapping[str, Any], key: str) -> float | None:
    found = row.get(key)
    if found is None:
        return None
    fits = type(found) in {int, float} and abs(found) < LARGEST and math.isfinite(found)
    return float(found) if fits else _malformed(found, key)


def _malformed(found: object, where: str) -> Any:
    raise InputError("the result is malformed", where=f"{where}: {clip(found)}", fix=ANEW)
