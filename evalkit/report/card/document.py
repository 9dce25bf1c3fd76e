"""The JSON contract of a metric card: every figure with its n, undefined ones null."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from evalkit.card import Card
from evalkit.report import calibration
from evalkit.report.accuracy.document import of_table
from evalkit.report.card import words
from evalkit.report.layout import json_document
from evalkit.statistics.reward_scale import QUANTILES, Quantiles

SCHEMA_VERSION = 1


def to_json(card: Card) -> bytes:
    """The document as indented JSON; without throughput the same bytes on every run."""
    return json_document(document(card))


def document(card: Card) -> dict[str, Any]:
    """Everything a program needs; rates are fractions."""
    spec = card.reward_model
    return {
        "schema_version": SCHEMA_VERSION,
        "reward_model": {
            "name": spec.name,
            "fingerprint": spec.fingerprint,
            "family": spec.family.name,
            "output": spec.family.output,
            "manifest": spec.manifest,
        },
        "type": words.TYPE[spec.family.output],
        "definition": words.definition(spec),
        "inputs": words.inputs(card),
        "system_turn": card.system_turn,
        "stated": card.stated._asdict(),
        "data": [asdict(source) for source in card.sources],
        "rows": asdict(card.rows),
        "rewards": _quantiles(card.rewards),
        "same_prompt": {
            **asdict(card.same_prompt),
            "size": _quantiles(card.same_prompt.size),
        },
        "alone": card.alone
        and {
            "spread": card.alone.spread._asdict(),
            "correlation": asdict(card.alone.correlation),
            "slope": asdict(card.alone.slope),
        },
        "position": card.position and asdict(card.position),
        "noise": card.noise and asdict(card.noise),
        "throughput": card.throughput and asdict(card.throughput),
        "calibration": card.calibration and calibration.document(card.calibration),
        "accuracies": [of_table(table, suite.credit) for suite, table in card.accuracies],
        "notices": list(card.notices),
        "command": card.options.command,
        "signature": str(card.signature),
        "exit_code": 0,
    }


def _quantiles(found: Quantiles | None) -> dict[str, Any] | None:
    if found is None:
        return None
    at = {f"{q:g}": value for q, value in zip(QUANTILES, found.at, strict=True)}
    return {"n": found.n, "low": found.low, "quantiles": at, "high": found.high}
