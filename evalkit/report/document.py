"""The JSON contract of `evalkit compare`, and one line per prompt."""

from __future__ import annotations

import json
from dataclasses import asdict

import numpy as np

from evalkit.comparison import Comparison, Group
from evalkit.contrasts import Compared, Contrast
from evalkit.gate.saved import SCHEMA_VERSION
from evalkit.report import gate
from evalkit.report.layout import json_document


def document(found: Compared) -> dict[str, object]:
    """Everything a program needs; rates are fractions, undefined values null."""
    return {
        "schema_version": SCHEMA_VERSION,
        "comparisons": [_comparison(c) for c in found.comparisons],
        "differences": [_difference(c) for c in found.contrasts],
        "over_references": [asdict(m) for m in found.macros],
        "verdict": gate.document(found.verdict) if found.verdict else None,
        "exit_code": found.exit_code,
    }


def to_json(found: Compared) -> bytes:
    """The document as indented JSON, the same bytes on every run."""
    return json_document(document(found))


def to_prompt_lines(found: Compared) -> bytes:
    """One JSON line per prompt and comparison, with the columns of the paired table."""
    lines = []
    for c in found.comparisons:
        columns = c.table.columns()
        names = {"checkpoint": c.checkpoint.name, "reference": c.reference.name}
        for values in zip(*(column.tolist() for column in columns.values()), strict=True):
            row = {k: _null(v) for k, v in zip(columns, values, strict=True)}
            lines.append(json.dumps({**names, **row}, ensure_ascii=False, allow_nan=False) + "\n")
    return "".join(lines).encode()


def _comparison(c: Comparison) -> dict[str, object]:
    unmatched = c.table.unmatched
    return {
        "checkpoint": c.checkpoint.name,
        "step": c.checkpoint.step,
        "reference": c.reference.name,
        "reward_model": {
            "name": c.reward_model.name,
            "fingerprint": c.reward_model.fingerprint,
            "dtype": c.reward_model.dtype,
            "family": c.reward_model.family.name,
            "output": c.reward_model.family.output,
        },
        **_counts(c.overall),
        "estimates": _estimates(c.overall),
        "robust": {name: asdict(found) for name, found in c.robust.items()},
        "subsets": {
            name: {**_counts(g), **_estimates(g), "p": c.breakdown.p[name]}
            for name, g in c.subsets.items()
        },
        "mean_over_subsets": asdict(c.breakdown.macro) if c.breakdown.macro else None,
        "lengths": None if c.lengths is None else asdict(c.lengths),
        "first_shown": None if c.first_shown is None else asdict(c.first_shown),
        "human": None if c.human is None else asdict(c.human),
        "unmatched": {
            "missing_in_checkpoint": list(unmatched.missing_in_checkpoint),
            "missing_in_reference": list(unmatched.missing_in_reference),
            "unscored": dict(unmatched.unscored),
            "worst_case_win_rate": None if c.worst_case is None else list(c.worst_case),
        },
        "truncated": c.table.truncated,
        "notices": list(c.notices),
        "signature": str(c.signature),
    }


def _difference(c: Contrast) -> dict[str, object]:
    """Two checkpoints under one reference: win rates in full, then the other metrics."""
    return {**asdict(c), "mcnemar": c.mcnemar._asdict()}


def _counts(group: Group) -> dict[str, int]:
    return {"n": group.n, "wins": group.wins, "ties": group.ties, "losses": group.losses}


def _estimates(group: Group) -> dict[str, dict[str, object]]:
    return {name: asdict(estimate) for name, estimate in group.estimates.items()}


def _null(value: object) -> object:
    return None if isinstance(value, float) and not np.isfinite(value) else value
