"""The main job: checkpoints against references under one reward model."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import product

from evalkit.comparison import Comparison, Options, comparison_of, temperature_of
from evalkit.data import CompletionSet, Item, Prompt
from evalkit.errors import InputError
from evalkit.lengths import Pooled, pooled
from evalkit.pairing import PairedTable, TieRule, match, pair, pair_preferences
from evalkit.reward_models.spec import RewardModelSpec
from evalkit.scoring import (
    RunSettings,
    Scored,
    ordered_pairs,
    preferences_of,
    rewards_of,
    score,
)
from evalkit.sets import benchmark_of, check_names, read_prompts, read_sets
from evalkit.statistics.length import MIN_COMPARISONS
from evalkit.store import Store
from evalkit.workspace import Workspace


def compare(
    checkpoints: Sequence[str],
    references: Sequence[str],
    reward_model: RewardModelSpec,
    workspace: Workspace,
    store: Store,
    *,
    options: Options | None = None,
    settings: RunSettings | None = None,
) -> list[Comparison]:
    """Compare every checkpoint with every reference; each completion is scored at most once, ever.

    Args:
        checkpoints: Names or paths, as for `--model`.
        references: Names or paths, as for `--ref`.
        reward_model: What scores them.
        workspace: Where names are looked up.
        store: Known rewards; new ones are added.
        options: Choices that can move a number.
        settings: Choices that cannot.

    Returns:
        One comparison per pair, checkpoint by checkpoint.

    Raises:
        InputError: Unknown names, malformed files, unmatched prompts.
        IntegrityError: A reference that is not what its manifest says, prompts that differ under
            one id, or known rewards that come out differently now.
        MissingError: A reward model that is not here, or completions without a reward.
    """
    options = options or Options()
    if reward_model.is_pairwise and options.temperature is not None:
        raise InputError(
            f"{reward_model.name!r} states probabilities of its own, which have no temperature",
            fix="leave --temperature out",
        )
    right = read_sets(references, "reference", workspace, options.benchmark)
    options = replace(options, benchmark=benchmark_of(options.benchmark, right))
    left = read_sets(checkpoints, "checkpoint", workspace, options.benchmark)
    check_names([*left, *right])
    expected = read_prompts(options.benchmark, workspace).values()
    for model, ref in product(left, right):
        match(model.completions, ref.completions, missing=options.missing, expected=expected)
    sides = [[found.completions for found in side] for side in (left, right)]
    packs = [pack for found in (*left, *right) for pack in found.packs()]
    scored = score(reward_model, _items(sides, reward_model), store, packs=packs, settings=settings)
    tables = _tables(sides, scored, reward_model, options, expected)
    pools = _pools(sides[1], scored, reward_model)
    return [
        comparison_of(checkpoint, reference, table, reward_model, options, pool)
        for (checkpoint, (reference, pool)), table in zip(
            product(sides[0], zip(sides[1], pools, strict=True)), tables, strict=True
        )
    ]


def _items(sides: Sequence[Sequence[CompletionSet]], reward_model: RewardModelSpec) -> list[Item]:
    """What must be scored: every completion, or every pairing in both orders."""
    left, right = sides
    if reward_model.is_pairwise:
        pairs = [both for c, r in product(left, right) for both in ordered_pairs(c, r)]
        return [item for both in pairs for item in both]
    return [item for found in (*left, *right) for item in found.conversations()]


def _tables(
    sides: Sequence[Sequence[CompletionSet]],
    scored: Scored,
    reward_model: RewardModelSpec,
    options: Options,
    expected: Iterable[Prompt],
) -> Iterator[PairedTable]:
    """The table of each checkpoint against each reference, in the order of `product`."""
    temperature = temperature_of(options, reward_model)
    if reward_model.is_pairwise:
        for left, right in product(sides[0], sides[1]):
            yield pair_preferences(
                left,
                right,
                preferences_of(left, right, scored),
                ties=options.ties,
                missing=options.missing,
                expected=expected,
            )
        return
    rewards = [[(found, rewards_of(found, scored)) for found in side] for side in sides]
    for checkpoint, reference in product(*rewards):
        yield pair(
            checkpoint,
            reference,
            ties=options.ties,
            missing=options.missing,
            expected=expected,
            temperature=temperature,
        )


def _pools(
    references: Sequence[CompletionSet], scored: Scored, reward_model: RewardModelSpec
) -> list[list[Pooled]]:
    """Of each reference all others against it; a pair-preference model was not asked about them."""
    if reward_model.is_pairwise or len(references) <= MIN_COMPARISONS:
        return [[] for _ in references]
    rewarded = [(found, rewards_of(found, scored)) for found in references]
    answered = [{p.prompt_id for p in found.prompts} for found in references]
    return [
        [
            pooled(pair(theirs, reference, ties=TieRule(), missing="drop"), theirs[0], reference[0])
            for theirs, ids in zip(rewarded, answered, strict=True)
            if theirs is not reference and ids & met
        ]
        for reference, met in zip(rewarded, answered, strict=True)
    ]
