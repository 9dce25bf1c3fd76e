"""Best of n: what choosing the best of k completions by a reward model is worth, for each k."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from evalkit.best_of_n.result import METRICS, BestOfN, Models, Options, Point, Signature
from evalkit.data import CompletionSet, FloatArray, Rewards, fix_of
from evalkit.errors import InputError, MissingError
from evalkit.notices import of_sets
from evalkit.pairing import NO_REWARD, Rows, match, rows_by_prompt
from evalkit.reward_models.spec import RewardModelSpec
from evalkit.scoring import RunSettings, rewards_of, score
from evalkit.sets import NamedSet, benchmark_of, check_names, read_prompts, read_set
from evalkit.statistics.best_of_n import best_of_n_kl, expected_pick
from evalkit.statistics.intervals import Estimate, mean
from evalkit.statistics.outcomes import all_pairs, mean_by_group, outcomes
from evalkit.store import Store
from evalkit.text import count, listing
from evalkit.version import __version__
from evalkit.workspace import Workspace

__all__ = ["METRICS", "BestOfN", "Models", "Options", "Point", "Signature", "best_of_n"]


def best_of_n(
    checkpoint: str,
    models: Models,
    workspace: Workspace,
    store: Store,
    *,
    reference: str | None = None,
    options: Options | None = None,
    settings: RunSettings | None = None,
) -> BestOfN:
    """What the best of k completions is worth, over all choices of k of those that are there.

    Args:
        checkpoint: Name or path, as for `--model`, with several completions per prompt.
        models: What chooses and what scores.
        workspace: Where names are looked up.
        store: Known rewards; new ones are added.
        reference: Name or path, as for `--ref`; None for no win rate.
        options: Choices that can move a number.
        settings: Choices that cannot.

    Raises:
        InputError: A pair-preference model, unknown names, malformed files; prompts without a
            completion, or with fewer than k, under `missing="error"`.
        IntegrityError: As for `evalkit.compare.compare`.
        MissingError: Completions without a reward under `missing="error"`.
    """
    for model in models:
        _refuse_pairwise(model)
    ours, theirs, options = _read(checkpoint, reference, workspace, options or Options())
    left_out = _absent(ours, theirs, workspace, options)
    sizes = {
        prompt.prompt_id: len(answers)
        for prompt, answers in ours.completions.by_prompt()
        if prompt.prompt_id not in left_out
    }
    options = _with_ks(options, sizes)
    scored = _score(models, ours, theirs, store, settings)
    left_out |= _unscored(scored, sizes, options)
    kept = {i: sizes[i] for i in sorted(sizes) if i not in left_out}
    if not kept:
        raise InputError(
            f"no prompt of {ours.completions.name!r} has a reward for each of its completions",
            where=listing([f"{i}: {why}" for i, why in left_out.items()], separator="\n     "),
            fix="mend these rows, or name other sets",
        )
    return _result(scored, models, kept, left_out, options)


def _refuse_pairwise(model: RewardModelSpec) -> None:
    if model.is_pairwise:
        raise InputError(
            f"{model.name!r} scores two answers against each other, not one alone: it ranks no "
            "completions by a reward",
            fix="name a reward model that gives rewards (--reward-model, --score-with)",
        )


def _read(
    checkpoint: str, reference: str | None, workspace: Workspace, options: Options
) -> tuple[NamedSet, NamedSet | None, Options]:
    benchmark, theirs = options.benchmark, None
    if reference is not None:
        theirs = read_set(reference, "reference", workspace, benchmark)
        benchmark = benchmark_of(benchmark, [theirs])
    ours = read_set(checkpoint, "checkpoint", workspace, benchmark)
    check_names([found for found in (ours, theirs) if found])
    return ours, theirs, replace(options, benchmark=benchmark_of(benchmark, [ours]))


def _absent(
    ours: NamedSet, theirs: NamedSet | None, workspace: Workspace, options: Options
) -> dict[str, str]:
    """Prompts without any completion on a side, and whose; refuses what must not be left out."""
    sets = [found.completions for found in (ours, theirs) if found]
    expected = read_prompts(options.benchmark, workspace).values()
    prompts = match(sets[0], sets[-1], missing="drop", expected=expected)
    known = [(one.name, {p.prompt_id for p in one.prompts}) for one in sets]
    absent = {
        i: " or ".join(f"no completion of {name}" for name, ids in known if i not in ids)
        for i in sorted(prompts)
        if any(i not in ids for _, ids in known)
    }
    if absent and options.missing == "error":
        raise InputError(
            f"{count(len(absent), 'prompt')} without a completion",
            where=listing([f"{i}: {why}" for i, why in absent.items()], separator="\n     "),
            fix="add the missing completions, or leave these prompts out with --missing drop",
        )
    if len(absent) == len(prompts):
        names = " and ".join(repr(one.name) for one in sets)
        raise InputError(f"no prompt is answered by {names}", fix="name sets of the same prompts")
    return absent


def _with_ks(options: Options, sizes: Mapping[str, int]) -> Options:
    """The options with the ks to use; refuses a k that some prompt has too few completions for."""
    least = min(sizes.values())
    powers = tuple(2**i for i in range(least.bit_length()))
    options = replace(options, ks=tuple(sorted(set(options.ks))) or powers)
    most = max(options.ks)
    short = [f"{i} has {sizes[i]}" for i in sorted(sizes) if sizes[i] < most]
    if short and options.missing == "error":
        raise InputError(
            f"{count(len(short), 'prompt')} with fewer than k = {most} completions",
            where=listing(short, separator="\n     "),
            fix=f"--k up to {least}, or leave these prompts out where k is too large with "
            "--missing drop",
        )
    return options


class _Side(NamedTuple):
    """A completion set and its rewards under a reward model."""

    completions: CompletionSet
    rewards: Rewards
    model: RewardModelSpec

    def rows(self, kept: Collection[str]) -> Rows:
        """Where the rewards of the kept prompts are."""
        return rows_by_prompt(self.rewards.prompt_id, kept)


class _Scored(NamedTuple):
    """The checkpoint as selector and scorer see it, the reference as the scorer does."""

    selected: _Side
    rescored: _Side
    reference: _Side | None

    def distinct(self) -> list[_Side]:
        """Each side once, where selector and scorer are one."""
        sides = [self.selected, *([] if self.rescored is self.selected else [self.rescored])]
        return [*sides, *([] if self.reference is None else [self.reference])]


def _score(
    models: Models,
    ours: NamedSet,
    theirs: NamedSet | None,
    store: Store,
    settings: RunSettings | None,
) -> _Scored:
    def sides(model: RewardModelSpec, sets: Sequence[NamedSet]) -> list[_Side]:
        items = [item for found in sets for item in found.completions.conversations()]
        packs = [pack for found in sets for pack in found.packs()]
        scored = score(model, items, store, packs=packs, settings=settings)
        return [_Side(s.completions, rewards_of(s.completions, scored), model) for s in sets]

    both = [found for found in (ours, theirs) if found]
    rescored, *reference = sides(models.scorer, both)
    selected = rescored if models.are_one else sides(models.selector, [ours])[0]
    return _Scored(selected, rescored, reference[0] if reference else None)


def _unscored(scored: _Scored, sizes: Mapping[str, int], options: Options) -> dict[str, str]:
    """Prompts with a completion that has no reward, and why: none can be chosen among the rest."""
    reasons: dict[str, list[str]] = {}
    kinds: list[str] = []
    for completions, rewards, model in scored.distinct():
        for row in np.flatnonzero(~np.isfinite(rewards.reward)).tolist():
            if (prompt_id := str(rewards.prompt_id[row])) in sizes:
                kinds.append(rewards.failures.get(row, NO_REWARD))
                why = f"{completions.name}, {model.name}: {kinds[-1]}"
                reasons.setdefault(prompt_id, []).append(why)
    found = {i: "; ".join(dict.fromkeys(reasons[i])) for i in sorted(reasons)}
    if found and options.missing == "error":
        raise MissingError(
            f"{count(len(found), 'prompt')} with a completion that has no reward",
            where=listing([f"{i}: {why}" for i, why in found.items()], separator="\n     "),
            fix=f"{fix_of(kinds)}; or leave these prompts out with --missing drop; the rewards of "
            "all others are kept",
        )
    return found


def _values(scored: _Scored, kept: Mapping[str, int], rows: Rows) -> dict[str, FloatArray]:
    """What each completion is worth, by metric; the first of them is the selector's reward."""
    values = {"reward": scored.selected.rewards.reward[rows.order]}
    rescored = scored.rescored.rewards.reward[rows.order]
    if scored.rescored is not scored.selected:
        values["scored_reward"] = rescored
    if scored.reference is not None:
        theirs = scored.reference.rows(kept)
        _, i, j = all_pairs(rows.sizes, theirs.sizes)
        margins = rescored[i] - scored.reference.rewards.reward[theirs.order][j]
        values["win_rate"] = mean_by_group(outcomes(margins), i, len(rescored))
    return values


def _points(
    values: Mapping[str, FloatArray], rows: Rows, kept: Mapping[str, int], options: Options
) -> Iterator[Point]:
    names = np.array(list(kept), dtype=object)

    def picks(metric: str, k: int) -> FloatArray:
        return expected_pick(values["reward"], values[metric], rows.prompt, len(kept), k)

    for k in options.ks:
        enough = rows.sizes >= k
        estimates: dict[str, Estimate] = {}
        for metric in values:
            bounded = metric == "win_rate"
            column = picks(metric, k)[enough]
            if bounded:
                column = np.clip(column, 0.0, 1.0)  # weights sum to 1 up to rounding
            estimates[metric] = mean(column, bounded=bounded, level=options.level)
            if k > 1 and not bounded:
                gain = column - picks(metric, 1)[enough]
                name = metric.replace("reward", "gain")
                estimates[name] = mean(gain, bounded=False, level=options.level)
        yield Point(
            k=k,
            kl=float(best_of_n_kl(np.array(k))),
            short=tuple(names[~enough].tolist()),
            n=int(np.count_nonzero(enough)),
            estimates={name: estimates[name] for name in METRICS if name in estimates},
        )


def _result(
    scored: _Scored,
    models: Models,
    kept: Mapping[str, int],
    left_out: Mapping[str, str],
    options: Options,
) -> BestOfN:
    rows = scored.selected.rows(kept)
    values = _values(scored, kept, rows)
    points = tuple(_points(values, rows, kept, options))
    cut = [
        (side, int(np.count_nonzero(side.rewards.cut[side.rows(kept).order])))
        for side in scored.distinct()
    ]
    truncated = sum(n for _, n in cut)
    said = _cautions(scored, kept)
    said += [
        f"{side.completions.name}: {count(n, 'completion')} scored by {side.model.name} with "
        "tokens cut off"
        for side, n in cut
        if n
    ]
    said += _of_sizes(points, kept, left_out, options)
    said += _of_ties(values["reward"], rows, models)
    return BestOfN(
        checkpoint=scored.selected.completions,
        reference=None if scored.reference is None else scored.reference.completions,
        models=models,
        points=points,
        prompts=len(kept),
        left_out=dict(sorted(left_out.items())),
        truncated=truncated,
        options=options,
        notices=tuple(dict.fromkeys(said)),
        signature=_signature(scored, points, options, left_out=len(left_out), truncated=truncated),
    )


def _cautions(scored: _Scored, kept: Mapping[str, int]) -> list[str]:
    """What is to be said of the sets under either reward model."""
    sets = [side.completions for side in (scored.reference, scored.selected) if side]
    models = {side.model.fingerprint: side.model for side in scored.distinct()}
    return [said for model in models.values() for said in of_sets(sets, model, kept)]


def _of_sizes(
    points: Sequence[Point],
    kept: Mapping[str, int],
    left_out: Mapping[str, str],
    options: Options,
) -> list[str]:
    found = []
    if left_out:
        n = len(left_out) + len(kept)
        found.append(f"{len(left_out)} of {n} prompts are left out: {listing(sorted(left_out))}")
    found += [
        f"k = {point.k}: {len(point.short)} of {len(kept)} prompts have fewer completions and are "
        f"left out there: {listing(point.short)}"
        for point in points
        if point.short
    ]
    if len({point.n for point in points}) > 1:
        found.append(
            "not every k is over the same prompts: a gain compares the same ones, the curve of "
            "rewards does not"
        )
    if options.ks == (1,):
        one = min(kept, key=lambda i: kept[i])
        found.append(f"k = 1 is no choice ({one} has {count(kept[one], 'completion')}): see --k")
    return found


def _of_ties(rewards: FloatArray, rows: Rows, models: Models) -> list[str]:
    order = np.lexsort((rewards, rows.prompt))
    rewards, group = rewards[order], rows.prompt[order]
    equal = (rewards[1:] == rewards[:-1]) & (group[1:] == group[:-1])
    if not (tied := len(np.unique(group[1:][equal]))):
        return []
    return [
        f"{models.selector.name} gives completions of {count(tied, 'prompt')} the same reward: "
        "it picks among these at random, and KL is an upper bound"
    ]


def _signature(
    scored: _Scored, points: Sequence[Point], options: Options, *, left_out: int, truncated: int
) -> Signature:
    ours, theirs = scored.selected.completions, scored.reference
    models = {
        key: value
        for role, side in (("select", scored.selected), ("score", scored.rescored))
        for key, value in _settings(role, side.model).items()
    }
    return Signature(
        checkpoint=ours.label,
        reference="" if theirs is None else theirs.completions.label,
        **models,
        benchmark=options.benchmark or "",
        k=",".join(str(point.k) for point in points),
        n=",".join(str(point.n) for point in points),
        left_out=left_out,
        truncated=truncated,
        missing=options.missing,
        ties="half",
        ci=f"logit-t,betting,t;{options.level!r}",
        version=__version__,
    )


def _settings(role: str, model: RewardModelSpec) -> dict[str, str]:
    return {
        role: model.label,
        f"{role}_dtype": model.dtype,
        f"{role}_max_length": str(model.max_length),
        f"{role}_overlong": model.overlong,
        f"{role}_output": model.family.output,
    }
