"""The JSON contract of `evalkit accuracy`, and a line of CSV per reward model and part."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

import numpy as np

from evalkit.accuracy.result import Accuracies, AccuracyTable, Margins, Part, Ranking
from evalkit.report.accuracy.tables import OVERALL, Place, places
from evalkit.report.layout import csv_lines, json_document
from evalkit.statistics.intervals import Estimate
from evalkit.suites.definition import Credit

SCHEMA_VERSION = 1


def to_json(run: Accuracies) -> bytes:
    """The document as indented JSON, the same bytes on every run."""
    return json_document(document(run))


def document(run: Accuracies) -> dict[str, Any]:
    """Everything a program needs; rates are fractions, undefined values null."""
    found = {
        "schema_version": SCHEMA_VERSION,
        "suite": run.suite.name,
        "tables": [of_table(table, run.suite.credit) for table in run.tables],
        "ranking": None if run.ranking is None else _ranking(run.ranking),
        "exit_code": 0,
    }
    return {name: _plain(value) for name, value in found.items()}


def of_table(table: AccuracyTable, credit: Credit) -> dict[str, Any]:
    """What one reward model's table says; rates are fractions, undefined values null."""
    found: dict[str, Any] = {
        "reward_model": table.reward_model,
        "fingerprint": None if table.spec is None else table.spec.fingerprint,
        "credit": credit,
        "overall": _part(table.overall, credit),
        "sections": {name: _part(part, credit) for name, part in table.sections.items()},
        "subsets": {name: _part(part, credit) for name, part in table.subsets.items()},
        "views": {name: asdict(estimate) for name, estimate in table.views.items()},
        "margins": None if table.margins is None else _margins(table.margins),
        "notices": list(table.notices),
        "signature": str(table.signature),
    }
    return {name: _plain(value) for name, value in found.items()}


def _part(part: Part, credit: Credit) -> dict[str, Any]:
    score, length = part.score, part.length
    own = score.of(credit)
    return {
        "strict": score.strict.value,
        "half_credit": score.half_credit.value,
        "low": own.low,
        "high": own.high,
        "n": score.n,
        "ties": score.ties,
        "errors": score.errors,
        "truncated": score.truncated,
        "weight": part.weight,
        "length_baseline": None if length is None else length.best,
        "longest": None if length is None else _ends(length.longest),
        "shortest": None if length is None else _ends(length.shortest),
        "ahead_of_length": None if length is None else _ends(length.ahead),
        "note": part.note,
        "estimates": {"strict": asdict(score.strict), "half_credit": asdict(score.half_credit)},
    }


def _ends(estimate: Estimate) -> dict[str, float | None]:
    return {"value": estimate.value, "low": estimate.low, "high": estimate.high}


def _margins(margins: Margins) -> dict[str, Any]:
    return {**asdict(margins), "floor": margins.floor._asdict()}


def _ranking(ranking: Ranking) -> dict[str, Any]:
    return {**asdict(ranking), "ranks": ranking.ranks._asdict()}


def _plain(value: Any) -> Any:
    """A value as JSON has it: arrays as lists, NaN as null."""
    if isinstance(value, np.ndarray | np.generic):
        return _plain(value.tolist())
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def to_csv(run: Accuracies) -> bytes:
    """Every part of every reward model on a line, numbers in full, empty where undefined."""
    return csv_lines(
        [
            _record(run, table, place, part)
            for table in run.tables
            for place in (OVERALL, *places(run))
            if (part := place.of(table))
        ]
    )


def _record(run: Accuracies, table: AccuracyTable, place: Place, part: Part) -> dict[str, object]:
    score, length = part.score, part.length
    return {
        "suite": run.suite.name,
        "reward_model": table.reward_model,
        "kind": place.kind,
        "name": place.name,
        "credit": run.suite.credit,
        **_columns("strict", score.strict),
        **_columns("half_credit", score.half_credit),
        "n": score.n,
        "ties": score.ties,
        "errors": score.errors,
        "truncated": score.truncated,
        "weight": part.weight,
        **_columns("longest", None if length is None else length.longest),
        **_columns("shortest", None if length is None else length.shortest),
        **_columns("ahead_of_length", None if length is None else length.ahead),
        "level": score.strict.level,
        "method": score.of(run.suite.credit).method,
        "note": part.note,
        "notices": "; ".join(table.notices),
        "signature": str(table.signature),
    }


def _columns(name: str, estimate: Estimate | None) -> dict[str, float | None]:
    ends = ("value", "low", "high", "stderr")
    names = (name, *(f"{name}_{end}" for end in ends[1:]))
    return {
        column: None if estimate is None else getattr(estimate, end)
        for column, end in zip(names, ends, strict=True)
    }
