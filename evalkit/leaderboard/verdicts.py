"""A leaderboard of verdicts somebody already has: every verdict is a game."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from evalkit.data import digest
from evalkit.errors import InputError, MissingError
from evalkit.formats.preferences import (
    Coding,
    Verdict,
    check_known,
    probabilities,
    read_judge,
)
from evalkit.leaderboard.fitting import Played, check_players, fitted, refuse_missing
from evalkit.leaderboard.result import Decider, Leaderboard, Options, Role
from evalkit.statistics.games import Games
from evalkit.statistics.outcomes import mean_by_group, outcomes
from evalkit.text import count, listing

UNNAMED = "(reference)"


def leaderboard_of_verdicts(
    source: str,
    *,
    checkpoints: Sequence[str] = (),
    references: Sequence[str] = (),
    annotator: str | None = None,
    coding: Coding | None = None,
    options: Options | None = None,
) -> Leaderboard:
    """Fit Bradley-Terry strengths to the verdicts of one judge.

    Several verdicts on one prompt and two players are one game, with their mean outcome. All
    prompts the judge saw against a reference are expected of each model judged against it.

    Args:
        source: A file, as `evalkit.formats.preferences` reads it.
        checkpoints: Whose verdicts; all models of the file if none is named.
        references: Against whom; all references of the file if none is named.
        annotator: Whose verdicts, where the file has several judges'.
        coding: Of the preferences; if None, told by the file: `alpaca-eval` if any is above 1.
        options: Choices that can move a number.

    Raises:
        InputError: A name the file does not have, several judges, prompts without a verdict, or
            players without any chain of games between them.
        MissingError: Verdicts that say nothing, under `missing="error"`.
    """
    options = options or Options()
    if options.benchmark is not None:
        raise InputError("verdicts have no benchmark", fix="leave --benchmark out")
    verdicts, coding = read_judge(source, annotator, coding)
    verdicts = _chosen(verdicts, checkpoints, references, source)
    said = sorted((v.prompt_id, v.reference, v.model, repr(v.preference)) for v in verdicts)
    decider = Decider(
        kind="verdicts",
        name=verdicts[0].annotator or Path(source).name,
        fingerprint=digest("verdicts", [coding, said]),
        dtype="",
        max_length=0,
        overlong="",
        output=coding,
    )
    against_itself = [v for v in verdicts if v.model == _reference(v)]
    verdicts = [v for v in verdicts if v.model != _reference(v)]
    roles = _roles(verdicts)
    check_players(list(roles), options.anchor)
    left_out = refuse_missing(_lacking(verdicts), options.missing)
    given, chances, silent = _spoken(verdicts, coding, options)
    played = Played(
        roles=roles,
        labels={},
        decided_by=decider,
        games=_games(given, chances, list(roles), options),
        left_out=left_out,
        unscored=silent,
        truncated=0,
        notices=_notices(len(against_itself), options),
    )
    return fitted(played, options)


def _reference(verdict: Verdict) -> str:
    return verdict.reference or UNNAMED


def _chosen(
    verdicts: list[Verdict], checkpoints: Sequence[str], references: Sequence[str], source: str
) -> list[Verdict]:
    check_known(source, "model", checkpoints, [v.model for v in verdicts])
    check_known(source, "reference", references, [_reference(v) for v in verdicts])
    found = [
        v
        for v in verdicts
        if (not checkpoints or v.model in checkpoints)
        and (not references or _reference(v) in references)
    ]
    if not found:
        raise InputError(
            "no verdict on these models against these references",
            where=source,
            fix="leave --model or --ref out",
        )
    return found


def _roles(verdicts: Sequence[Verdict]) -> dict[str, Role]:
    """The players by name; who is judged against others is a checkpoint, whoever else it judges."""
    models = {v.model for v in verdicts}
    players = models | {_reference(v) for v in verdicts}
    return {name: "checkpoint" if name in models else "reference" for name in sorted(players)}


def _lacking(verdicts: Sequence[Verdict]) -> dict[str, tuple[str, ...]]:
    """Which two -> the prompts without a verdict that others have against the same reference."""
    expected: dict[str, set[str]] = {}
    found: dict[tuple[str, str], set[str]] = {}
    for v in verdicts:
        expected.setdefault(_reference(v), set()).add(v.prompt_id)
        found.setdefault((v.model, _reference(v)), set()).add(v.prompt_id)
    absent = {players: expected[players[1]] - ids for players, ids in sorted(found.items())}
    return {f"{a} against {b}": tuple(sorted(ids)) for (a, b), ids in absent.items() if ids}


def _spoken(
    verdicts: Sequence[Verdict], coding: Coding, options: Options
) -> tuple[list[Verdict], list[float], dict[str, str]]:
    """The verdicts with a preference, as probabilities, and prompt id -> who has none."""
    chances = probabilities(verdicts, coding)
    silent: dict[str, str] = {}
    for v, chance in zip(verdicts, chances, strict=True):
        if math.isnan(chance):
            who = f"no verdict on {v.model} against {_reference(v)}"
            silent[v.prompt_id] = "; ".join(filter(None, [silent.get(v.prompt_id), who]))
    if silent and options.missing == "error":
        raise MissingError(
            f"{count(len(silent), 'prompt')} with a verdict that says nothing",
            where=listing([f"{i}: {why}" for i, why in silent.items()], separator="\n     "),
            fix="mend these rows, or use the others with --missing drop",
        )
    spoken = [(v, c) for v, c in zip(verdicts, chances, strict=True) if not math.isnan(c)]
    return [v for v, _ in spoken], [c for _, c in spoken], dict(sorted(silent.items()))


def _games(
    verdicts: Sequence[Verdict], chances: Sequence[float], names: Sequence[str], options: Options
) -> Games:
    """One game for every prompt and two players, the first by name as i."""
    number: Mapping[str, int] = {name: k for k, name in enumerate(names)}
    prompts = sorted({v.prompt_id for v in verdicts})
    row = {prompt_id: k for k, prompt_id in enumerate(prompts)}
    prompt = np.array([row[v.prompt_id] for v in verdicts], dtype=np.int64)
    model = np.array([number[v.model] for v in verdicts], dtype=np.int64)
    reference = np.array([number[_reference(v)] for v in verdicts], dtype=np.int64)
    chance = np.array(chances, dtype=np.float64)
    turned = model > reference
    lead = np.where(turned, 0.5 - chance, chance - 0.5)
    if options.soft:
        outcome = np.where(turned, 1 - chance, chance)
    else:
        outcome = outcomes(lead, tie=options.ties.margin, drop_ties=options.ties.drop)
    i, j = np.minimum(model, reference), np.maximum(model, reference)
    m = len(names)
    cells, game = np.unique((prompt * m + i) * m + j, return_inverse=True)
    order = np.lexsort((outcome, game))  # sums must not depend on the order of the file
    means = mean_by_group(outcome[order], game[order], len(cells))
    return Games(cells // (m * m), cells // m % m, cells % m, means)


def _notices(against_itself: int, options: Options) -> list[str]:
    said = (
        "outcomes are the verdicts as probabilities (--soft)"
        if options.soft
        else "outcomes are the verdicts as win, tie or loss: above one half is a win"
    )
    if against_itself:
        return [said, f"{count(against_itself, 'verdict')} on a player against itself left out"]
    return [said]
