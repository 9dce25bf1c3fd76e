"""A reward model's metric card: what can be measured of it is, on the data given."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import cache, partial
from pathlib import Path

import numpy as np

from evalkit.accuracy import AccuracyTable, accuracy
from evalkit.accuracy import Options as AccuracyOptions
from evalkit.calibrate import Calibration, calibrate
from evalkit.calibrate import Options as CalibrateOptions
from evalkit.card.answers import Answers, both_orders, read_answers
from evalkit.card.result import (
    Alone,
    Card,
    Options,
    Position,
    Rows,
    SamePrompt,
    Signature,
    Source,
    SystemTurn,
)
from evalkit.data import FloatArray, IntArray, Item, Message, Messages, Pair, conversation, item_key
from evalkit.errors import InputError, MissingError
from evalkit.reward_models import RewardModel
from evalkit.reward_models.lookup import stated
from evalkit.reward_models.spec import RewardModelSpec
from evalkit.scoring import RunSettings, Scored, noise, score, throughput
from evalkit.scoring.noise import Noise
from evalkit.sets import NamedSet
from evalkit.statistics.intervals import Estimate, mean
from evalkit.statistics.length_diagnostics import reward_length_correlation, reward_length_slope
from evalkit.statistics.outcomes import outcomes, win_probabilities
from evalkit.statistics.reward_scale import Margins, quantiles, same_prompt_margins, spread
from evalkit.store import Store
from evalkit.suites import Suite, find_suite
from evalkit.text import listing
from evalkit.version import __version__
from evalkit.workspace import Workspace

__all__ = [
    "Alone", "Card", "Options", "Position", "Rows", "SamePrompt", "Signature", "Source", "measure",
]  # fmt: skip

QUESTION = (Message("user", "What is the capital of France?"),)
SYSTEM = Message("system", "Answer in one word.")


def measure(
    reward_model: RewardModelSpec,
    data: Sequence[str],
    workspace: Workspace,
    store: Store,
    *,
    options: Options | None = None,
    settings: RunSettings | None = None,
) -> Card:
    """Measure a reward model; what is known of the data is not scored again.

    Args:
        reward_model: Which.
        data: Names or paths of completions, as for `--model` and `--ref`; none for all that
            answers the benchmark.
        workspace: Where names are looked up.
        store: Known rewards; new ones are added.
        options: Choices that can move a number.
        settings: Choices that cannot, but for the throughput. The model is loaded once, for it may
            fill its device.

    Raises:
        InputError: Nothing to score, malformed files, or labelled pairs for a model whose
            probabilities are its own.
        IntegrityError: Known rewards come out differently now.
        MissingError: A reward model that is not here, or nothing with a reward.
    """
    options, settings = options or Options(), settings or RunSettings()
    _check_pairs(reward_model, options)
    suites = [(find_suite(name, workspace), path) for name, path in options.suites]
    sets, answers = read_answers(data, workspace, options.benchmark)
    items = answers.items(pairwise=reward_model.is_pairwise)

    loaded = cache(partial(settings.load, reward_model, device=settings.device))
    settings = replace(settings, load=lambda *_, **__: loaded())
    packs = [pack for found in sets for pack in found.packs()]
    scored = score(reward_model, items, store, packs=packs, settings=settings)
    again = _sample(reward_model, items, scored, options.noise_rows)
    calibration = _calibration(reward_model, store, options, settings)
    accuracies = _accuracies(reward_model, suites, store, options, settings)
    sources = tuple(_source(one) for one in sets)
    rows = _rows(answers, items, scored)
    noisy = (
        None
        if reward_model.is_judge
        else noise.measure(reward_model, again, seed=options.seed, settings=settings)
    )
    columns, alone, position = _columns(reward_model, answers, scored, options.level)
    return Card(
        reward_model=reward_model,
        stated=stated(reward_model),
        sources=sources,
        rows=rows,
        rewards=quantiles(np.array(sorted(row.reward for row in scored.rewards.values()))),
        same_prompt=_same_prompt(columns, noisy, options.level),
        alone=alone,
        position=position,
        system_turn=_system_turn(loaded(), pairwise=reward_model.is_pairwise),
        noise=noisy,
        throughput=throughput.measure(
            reward_model, loaded(), again, batch_tokens=settings.batch_tokens
        )
        if options.throughput and not reward_model.is_judge
        else None,
        calibration=calibration,
        accuracies=accuracies,
        notices=_notices(reward_model, sources, calibration, accuracies),
        options=options,
        signature=_signature(reward_model, sources, rows, options),
    )


def _check_pairs(spec: RewardModelSpec, options: Options) -> None:
    if options.pairs and spec.is_pairwise:
        raise InputError(
            f"{spec.name!r} states probabilities of its own, which have no temperature",
            fix="leave --pairs out; name a suite for its accuracy",
        )


def _sample(spec: RewardModelSpec, items: Sequence[Item], scored: Scored, rows: int) -> list[Item]:
    """The first of the items with a reward in the order of their keys, which is that of chance.

    Raises:
        InputError: There is nothing to score.
        MissingError: Nothing has a reward.
    """
    if not items:
        raise InputError(
            f"no prompt has two completions, which {spec.name!r} compares",
            fix="name more completions of the same prompts: --data, repeatable",
        )
    if not scored.rewards:
        raise MissingError(
            f"{spec.name!r} gives nothing of these data a reward",
            where=listing(sorted(set(scored.problems.values())), separator="\n     "),
            fix="choose others; see --max-length and --overlong for long ones",
        )
    known = {item_key(item): item for item in items}
    return [known[key] for key in sorted(scored.rewards)[:rows]]


def _columns(
    spec: RewardModelSpec, answers: Answers, scored: Scored, level: float
) -> tuple[Margins, Alone | None, Position | None]:
    """The margins within prompts, and what only one of both kinds of model can say."""
    if spec.is_pairwise:
        both = both_orders(answers, scored)
        margins = Margins(both.prompt, (both.forward - both.backward) / 2, both.difference)
        return margins, None, _position(both.prompt, both.forward, both.backward, level)

    def known(of: str) -> FloatArray:
        def value(prompt: Messages, text: str) -> float:
            row = scored.rewards.get(item_key(conversation(prompt, text)))
            return np.nan if row is None else float(getattr(row, of))

        return answers.table(value)

    rewards, tokens = known("reward"), known("tokens")
    alone = Alone(
        spread=spread(rewards),
        correlation=reward_length_correlation(rewards, tokens, level=level),
        slope=reward_length_slope(rewards, tokens, level=level),
    )
    return same_prompt_margins(rewards, tokens), alone, None


def _same_prompt(columns: Margins, noisy: Noise | None, level: float) -> SamePrompt:
    size = np.abs(columns.margin)
    unequal = columns.difference != 0
    won = outcomes(np.sign(columns.difference) * columns.margin)

    def share(column: FloatArray, prompt: IntArray) -> Estimate:
        return mean(column, bounded=True, level=level, clusters=prompt)

    return SamePrompt(
        pairs=len(size),
        prompts=len(np.unique(columns.prompt)),
        size=quantiles(size),
        tied=share((size == 0).astype(np.float64), columns.prompt),
        within_noise=share((size <= noisy.band).astype(np.float64), columns.prompt)
        if noisy
        else None,
        longer=share(won[unequal], columns.prompt[unequal]),
    )


def _position(
    prompt: IntArray, forward: FloatArray, backward: FloatArray, level: float
) -> Position:
    ours, theirs = win_probabilities(forward), win_probabilities(backward)

    def share(column: FloatArray) -> Estimate:
        return mean(column, bounded=True, level=level, clusters=prompt)

    return Position(
        first=share((ours + theirs) / 2),
        gap=share(np.abs(ours - (1 - theirs))),
        flips=share((np.sign(forward) * np.sign(backward) > 0).astype(np.float64)),
    )


def _system_turn(model: RewardModel, *, pairwise: bool) -> SystemTurn:
    """Whether a system turn changes what the model reads."""
    with_turn, without = (SYSTEM, *QUESTION), QUESTION
    items: list[Item] = [
        Pair(prompt, "Paris.", "Lyon.") if pairwise else conversation(prompt, "Paris.")
        for prompt in (with_turn, without)
    ]
    told, plain = model.render(items)
    if told.problem:
        return "refused"
    return "dropped" if told.ids == plain.ids else "read"


def _rows(answers: Answers, items: Sequence[Item], scored: Scored) -> Rows:
    return Rows(
        prompts=len(answers.prompts),
        completions=answers.count,
        repeats=answers.read - answers.count,
        items=len(items),
        unscored=dict(sorted(Counter(scored.problems.values()).items())),
        truncated=sum(row.cut > 0 for row in scored.rewards.values()),
        longest=max(row.tokens for row in scored.rewards.values()),
    )


def _source(found: NamedSet) -> Source:
    of = found.completions
    completions = sum(map(len, of.completions))
    return Source(of.name, of.digest, len(of.prompts), completions, of.notice)


def _calibration(
    spec: RewardModelSpec, store: Store, options: Options, settings: RunSettings
) -> Calibration | None:
    if options.pairs is None:
        return None
    chosen = CalibrateOptions(seed=options.seed, level=options.level, missing="drop")
    return calibrate(options.pairs, spec, store, options=chosen, settings=settings)


def _accuracies(
    spec: RewardModelSpec,
    suites: Sequence[tuple[Suite, str]],
    store: Store,
    options: Options,
    settings: RunSettings,
) -> tuple[tuple[Suite, AccuracyTable], ...]:
    chosen = AccuracyOptions(seed=options.seed, level=options.level)
    return tuple(
        (suite, table)
        for suite, path in suites
        for table in accuracy(
            suite,
            [spec],
            store,
            data={suite.data[0].name: path} if path else {},
            options=chosen,
            settings=settings,
        ).tables
    )


def _notices(
    spec: RewardModelSpec,
    sources: Sequence[Source],
    calibration: Calibration | None,
    accuracies: Sequence[tuple[Suite, AccuracyTable]],
) -> tuple[str, ...]:
    found = [spec.notice, *(source.notice for source in sources)]
    found += [f"{spec.name}: {spec.family.note}"] if spec.family.note else []
    found += calibration.notices if calibration else ()
    found += [notice for _, table in accuracies for notice in table.notices]
    return tuple(dict.fromkeys(notice for notice in found if notice))


def _signature(
    spec: RewardModelSpec, sources: Sequence[Source], rows: Rows, options: Options
) -> Signature:
    """Of what the card measures itself; calibration and accuracies have their own beside it."""
    return Signature(
        rm=spec.label,
        dtype=spec.dtype,
        max_length=spec.max_length,
        overlong=spec.overlong,
        output=spec.family.output,
        data=tuple(f"{source.name}#{source.digest[:12]}" for source in sources),
        prompts=rows.prompts,
        n=rows.items - sum(rows.unscored.values()),
        unscored=sum(rows.unscored.values()),
        truncated=rows.truncated,
        noise_rows=0 if spec.is_judge else options.noise_rows,
        pairs=Path(options.pairs).name if options.pairs else "",
        suites=tuple(name for name, _ in options.suites),
        ci=f"logit-t,betting,t;{options.level!r}",
        seed=options.seed,
        version=__version__,
    )
