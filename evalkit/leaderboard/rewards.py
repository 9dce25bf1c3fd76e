"""A leaderboard of rewards: every two players meet on every prompt both answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import chain, combinations, pairwise
from typing import TypedDict

import numpy as np

from evalkit.data import CompletionSet, FloatArray, Item, Prompt, TextArray
from evalkit.errors import InputError, MissingError
from evalkit.leaderboard.fitting import Played, check_players, fitted, refuse_missing
from evalkit.leaderboard.result import Decider, Leaderboard, Options, Role
from evalkit.notices import of_orders, of_sets, of_truncated
from evalkit.pairing import (
    NO_REWARD,
    Missing,
    PairedTable,
    TieRule,
    match,
    pair,
    pair_preferences,
)
from evalkit.reward_models.spec import RewardModelSpec
from evalkit.scoring import (
    RunSettings,
    Scored,
    ordered_pairs,
    preferences_of,
    rewards_of,
    score,
)
from evalkit.sets import NamedSet, benchmark_of, check_names, read_prompts, read_sets
from evalkit.statistics.games import Games
from evalkit.store import Store
from evalkit.workspace import Workspace


class _How(TypedDict):
    ties: TieRule
    missing: Missing


def leaderboard(
    checkpoints: Sequence[str],
    references: Sequence[str],
    reward_model: RewardModelSpec,
    workspace: Workspace,
    store: Store,
    *,
    options: Options | None = None,
    settings: RunSettings | None = None,
) -> Leaderboard:
    """Fit Bradley-Terry strengths to all pairs of players; each completion is scored at most once.

    Args:
        checkpoints: Names or paths, as for `--model`.
        references: Names or paths, as for `--ref`; two or more players in all.
        reward_model: What scores them.
        workspace: Where names are looked up.
        store: Known rewards; new ones are added.
        options: Choices that can move a number.
        settings: Choices that cannot.

    Raises:
        InputError: Fewer than two players, one named twice, prompts that some player lacks, or
            players without any chain of games between them.
        IntegrityError: Prompts that differ under one id, or known rewards that come out
            differently.
        MissingError: A reward model that is not here, or completions without a reward.
    """
    options = options or Options()
    if options.soft:
        raise InputError("soft outcomes are for verdicts", fix="leave --soft out")
    roles, found, options = _read(checkpoints, references, workspace, options)
    check_players(list(roles), options.anchor)
    sets = [one.completions for one in found]
    left_out = _lacking(sets, read_prompts(options.benchmark, workspace), options.missing)
    packs = [pack for one in found for pack in one.packs()]
    scored = score(reward_model, _items(sets, reward_model), store, packs=packs, settings=settings)
    tables, unscored, truncated = _tables(sets, scored, reward_model, options)
    games, prompt_ids = _games(tables)
    played = Played(
        roles=roles,
        labels={one.name: one.label for one in sets},
        decided_by=Decider(
            "reward model", reward_model.name, reward_model.fingerprint, reward_model.dtype,
            reward_model.max_length, reward_model.overlong, reward_model.family.output,
        ),
        games=games,
        left_out=left_out,
        unscored=unscored,
        truncated=truncated,
        notices=_notices(sets, reward_model, list(tables.values()), prompt_ids, truncated),
    )  # fmt: skip
    return fitted(played, options)


def _read(
    checkpoints: Sequence[str], references: Sequence[str], workspace: Workspace, options: Options
) -> tuple[dict[str, Role], list[NamedSet], Options]:
    """The players by name, so that the order they are named in moves nothing."""
    right = read_sets(references, "reference", workspace, options.benchmark) if references else []
    benchmark = benchmark_of(options.benchmark, right)
    left = read_sets(checkpoints, "checkpoint", workspace, benchmark) if checkpoints else []
    check_names([*left, *right])
    found = sorted([*left, *right], key=lambda one: one.completions.name)
    for a, b in pairwise(found):
        if a.completions.name == b.completions.name:
            raise InputError(f"{a.completions.name!r} is named twice", fix="name a player once")
    named = {one.completions.name for one in right}
    roles: dict[str, Role] = {
        one.completions.name: "reference" if one.completions.name in named else "checkpoint"
        for one in found
    }
    return (
        roles,
        found,
        replace(options, benchmark=benchmark if right else benchmark_of(benchmark, left)),
    )


def _lacking(
    sets: Sequence[CompletionSet], expected: Mapping[str, Prompt], missing: Missing
) -> dict[str, tuple[str, ...]]:
    """Name -> the prompts it does not answer; refuses what cannot be paired, before any scoring."""
    for a, b in combinations(sets, 2):
        match(a, b, missing="drop")  # that they mean the same prompts
    prompts = {p.prompt_id for one in sets for p in one.prompts} | expected.keys()
    absent = {one.name: tuple(sorted(prompts - {p.prompt_id for p in one.prompts})) for one in sets}
    return refuse_missing({name: ids for name, ids in absent.items() if ids}, missing)


def _items(sets: Sequence[CompletionSet], reward_model: RewardModelSpec) -> list[Item]:
    """Every completion, or every pairing in both orders."""
    if reward_model.is_pairwise:
        both = [pairs for a, b in combinations(sets, 2) for pairs in ordered_pairs(a, b)]
        return [item for pairs in both for item in pairs]
    return [conversation for one in sets for conversation in one.conversations()]


def _tables(
    sets: Sequence[CompletionSet], scored: Scored, reward_model: RewardModelSpec, options: Options
) -> tuple[dict[tuple[int, int], PairedTable], dict[str, str], int]:
    """The table of every two players that met, who has no reward, and how many lost tokens."""
    how: _How = {"ties": options.ties, "missing": options.missing}
    sides = [] if reward_model.is_pairwise else [(one, rewards_of(one, scored)) for one in sets]
    seen = [_without(rewards.prompt_id, rewards.reward, rewards.failures, one.name)
            for one, rewards in sides]  # fmt: skip
    cut = [rewards.cut for _, rewards in sides]
    tables = {}
    for i, j in combinations(range(len(sets)), 2):
        said = preferences_of(sets[i], sets[j], scored) if reward_model.is_pairwise else None
        if said is not None:
            who = f"{sets[i].name} against {sets[j].name}"
            seen.append(_without(said.prompt_id, said.probability, said.failures, who))
            cut.append(said.cut)
        try:
            tables[i, j] = (
                pair(sides[i], sides[j], temperature=None, **how)
                if said is None
                else pair_preferences(sets[i], sets[j], said, **how)
            )
        except (InputError, MissingError):  # no scored prompt in common; the rest was refused
            if options.missing == "error":
                raise
    unscored: dict[str, list[str]] = {}
    for prompt_id, why in sorted(chain.from_iterable(seen)):
        unscored.setdefault(prompt_id, []).append(why)
    reasons = {prompt_id: "; ".join(dict.fromkeys(why)) for prompt_id, why in unscored.items()}
    return tables, reasons, sum(int(np.count_nonzero(lost)) for lost in cut)


def _without(
    prompt_ids: TextArray, values: FloatArray, failures: Mapping[int, str], who: str
) -> list[tuple[str, str]]:
    """Prompt id and reason of each row that has no number."""
    rows = np.flatnonzero(np.isnan(values)).tolist()
    return [(str(prompt_ids[row]), f"{who}: {failures.get(row, NO_REWARD)}") for row in rows]


def _games(tables: Mapping[tuple[int, int], PairedTable]) -> tuple[Games, TextArray]:
    """A game for every row of every table, and the prompts they are numbered by."""
    if not tables:
        raise InputError("no two players have a scored prompt in common", fix="see --missing")
    rows = [(table.prompt_id, table.outcome) for table in tables.values()]
    prompt_ids, prompt = np.unique(np.concatenate([ids for ids, _ in rows]), return_inverse=True)
    sizes = [len(ids) for ids, _ in rows]
    i, j = (np.repeat([players[side] for players in tables], sizes) for side in (0, 1))
    return Games(prompt, i, j, np.concatenate([outcome for _, outcome in rows])), prompt_ids


def _notices(
    sets: Sequence[CompletionSet],
    reward_model: RewardModelSpec,
    tables: Sequence[PairedTable],
    prompt_ids: TextArray,
    truncated: int,
) -> list[str]:
    """What is to be said of the players; of margins nothing, which move no strength."""
    shift = np.concatenate([table.order_shift for table in tables])
    return [
        *of_sets(sets, reward_model, prompt_ids.tolist()),
        *of_orders(reward_model, shift),
        *of_truncated(truncated),
    ]
