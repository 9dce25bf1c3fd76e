"""After a run: why a rule is inconclusive, and what would settle it."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from evalkit.data import digest
from evalkit.errors import InputError
from evalkit.gate import Judged, Policy, judge
from evalkit.plan.pilot import Measure, Pilot, read_pilot
from evalkit.plan.result import AfterSignature, Instead, Settlement, Undecided
from evalkit.sets import NamedSet, read_set
from evalkit.signature import Signature
from evalkit.statistics.gates import FEW_DECIDING
from evalkit.statistics.planning import components
from evalkit.store import Store
from evalkit.version import __version__
from evalkit.workspace import Role, Workspace

COMPLETIONS = (1, 2, 4, 8, 16)


def settle(
    result: Mapping[str, Any], policy: Policy, workspace: Workspace, store: Store
) -> Settlement:
    """What would settle the rules that a saved result leaves undecided.

    The gate judges, and says how many prompts would decide. Where the workspace still has the very
    completions of the result, several a prompt, with their rewards, what further completions would
    do instead is worked out from those; not where whole subsets of prompts are the unit, whose
    spread these do not tell.

    Args:
        result: The JSON that `evalkit compare -o result.json` or `evalkit track -o run.json` wrote.
        policy: What it must show.
        workspace: Where its sets may be.
        store: Where their rewards may be.

    Raises:
        InputError: The result is of another command or schema, or malformed.
        IntegrityError: A reference or pack of the workspace is damaged.
    """
    verdict = judge(result, policy)
    undecided = tuple(
        _undecided(j, result, workspace, store) for j in verdict.judged if j.state == "inconclusive"
    )
    return Settlement(
        rules=len(verdict.judged),
        failed=verdict.number_of("fail"),
        undecided=undecided,
        level=verdict.level,
        signature=AfterSignature(
            after=digest("result", result)[:12],
            rules=tuple(dict.fromkeys(j.name for j in verdict.judged)),
            ci=repr(verdict.level),
            version=__version__,
        ),
    )


def _undecided(
    j: Judged, result: Mapping[str, Any], workspace: Workspace, store: Store
) -> Undecided:
    distance = half_width = None
    if j.value is not None:
        distance = abs(j.value - j.limit)
        end = j.low if j.value >= j.limit else j.high
        half_width = None if end is None else abs(j.value - end)
    instead: tuple[Instead, ...] = ()
    floor, absent = None, ""
    by_variance = j.deciding is None or j.deciding >= FEW_DECIDING
    wanted = by_variance and j.n_needed and not j.rule.subset
    if wanted and j.n_needed:
        pilot = _pilot(j, result, workspace, store)
        if isinstance(pilot, Pilot):
            instead, floor = _instead(j.n_needed, pilot)
        absent = pilot if isinstance(pilot, str) else ""
    return Undecided(j, distance, half_width, instead, floor, absent)


def _instead(needed: int, pilot: Pilot) -> tuple[tuple[Instead, ...], int | None]:
    """Prompts with more completions each: the gate's number, as the variance of a prompt falls."""
    found = components(*pilot.sides())
    known = pilot.completions if len(pilot.values) == 2 else (pilot.completions[0], 1)
    if found.a is None or found.b is None or not (now := found.variance((known[0], known[1]))):
        return (), None
    more = [k for k in COMPLETIONS if k > max(pilot.completions)]
    return (
        tuple(Instead(k, max(2, math.ceil(needed * found.variance((k, k)) / now))) for k in more),
        max(2, math.ceil(needed * found.between / now)),
    )


def _pilot(
    j: Judged, result: Mapping[str, Any], workspace: Workspace, store: Store
) -> Pilot | str | None:
    """The rewards behind a rule, several completions a prompt; or what of it is not at hand."""
    if j.rule.metric not in {"win_rate", "win_probability"}:
        return None
    names = [name for name in (j.checkpoint, j.baseline) if name]
    rows = [
        row
        for name in names
        for row in result.get("comparisons", [])  # a run has none, whose rewards are not looked up
        if (row["checkpoint"], row["reference"]) == (name, j.reference)
    ]
    if not rows:
        return None
    try:
        signatures = [Signature.parse(str(row.get("signature"))) for row in rows]
        if any(s.clusters != "prompt" for s in signatures):
            return "how prompts vary says nothing of how whole subsets do"
        measure = _measure(j, rows[0], signatures[0])
    except (InputError, ValueError):
        return None  # of another version, or it does not say how it was made
    try:
        reference = _same(signatures[0].reference, "reference", signatures[0], workspace)
        sets = [_same(s.checkpoint, "checkpoint", s, workspace) for s in signatures]
        pilot = read_pilot(sets, [reference], measure, store, missing="drop")
    except InputError as error:
        return error.what
    same = pilot.most == pilot.completions and pilot.prompts == j.n
    return pilot if same and min(pilot.completions) > 1 else None


def _measure(j: Judged, row: Mapping[str, Any], signature: Signature) -> Measure:
    """How the result was made.

    Raises:
        ValueError: It does not say.
    """
    model = row.get("reward_model")
    fingerprint = model.get("fingerprint") if isinstance(model, dict) else None
    if not isinstance(fingerprint, str) or not re.fullmatch("[0-9a-f]{64}", fingerprint):
        raise ValueError("no fingerprint")
    ties = signature.ties.removeprefix("margin=")
    return Measure(
        name=signature.rm.rpartition("#")[0],
        fingerprint=fingerprint,
        is_pairwise=signature.output == "preference",
        metric="win_rate" if j.rule.metric == "win_rate" else "win_probability",
        tie=0.0 if ties == "half" else float(ties),
        temperature=float(signature.temperature) if signature.temperature else None,
    )


def _same(named: str, role: Role, signature: Signature, workspace: Workspace) -> NamedSet:
    """The set of a signature's `name#digest`, if the workspace still has it.

    Raises:
        InputError: It has none of that name, or another one.
    """
    name, _, known = named.rpartition("#")
    found = read_set(name, role, workspace, signature.benchmark or None)
    if found.completions.digest[:12] != known:
        raise InputError(f"{name!r} is not what it was when the result was written")
    return found
