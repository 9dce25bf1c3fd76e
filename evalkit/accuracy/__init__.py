"""The accuracy of reward models on suites of preference data, and how the models compare."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from evalkit.accuracy.comparing import ranking_of
from evalkit.accuracy.credits import check_rules
from evalkit.accuracy.result import (
    Accuracies,
    AccuracyTable,
    LengthBaseline,
    Margins,
    Options,
    Part,
    Ranking,
    Score,
    Signature,
)
from evalkit.accuracy.rows import (
    in_subsets,
    items_of,
    joined,
    numbered,
    scored_row,
    unrewarded,
    with_texts,
)
from evalkit.accuracy.table import BOTH_ORDERS, Rated, table_of
from evalkit.data import digest
from evalkit.errors import InputError, MissingError
from evalkit.formats.rewarded_rows import RewardedRow, file_name, read_rewarded
from evalkit.formats.scores import holds_scores, read_scores
from evalkit.reward_models.spec import RewardModelSpec
from evalkit.scoring import RunSettings, score
from evalkit.store import Store
from evalkit.suites import Suite, SuiteData, check_numbers, read_suite
from evalkit.text import count
from evalkit.version import __version__

__all__ = [
    "Accuracies", "AccuracyTable", "LengthBaseline", "Margins", "Options", "Part", "Ranking",
    "Score", "Signature", "accuracy",
]  # fmt: skip


def accuracy(
    suite: Suite,
    reward_models: Sequence[RewardModelSpec],
    store: Store,
    *,
    rewards: Sequence[str] = (),
    data: Mapping[str, str] | None = None,
    options: Options | None = None,
    settings: RunSettings | None = None,
) -> Accuracies:
    """How often reward models prefer the right answers of a suite.

    Args:
        suite: The suite.
        reward_models: What scores its rows; each answer at most once, ever.
        store: Known rewards; new ones are added.
        rewards: Files of rewards that somebody already has, as `evalkit.formats.rewarded_rows` and
            `evalkit.formats.scores` read them; each is one more reward model.
        data: Name of one of the suite's sources -> where it is read; by default its `hub`.
        options: Choices that can move a number.
        settings: Choices that cannot.

    Returns:
        A table for each reward model, then for each file, in order.

    Raises:
        InputError: No reward model, rows that are not the suite's, or a malformed file.
        IntegrityError: Known rewards come out differently now.
        MissingError: Data or a reward model that is not here, or no row with a reward.
    """
    options = options or Options()
    if not reward_models and not rewards:
        raise InputError(
            "no reward model is named", fix="--reward-model NAME, or --rewards FILE of its rewards"
        )
    needed = bool(reward_models or data or any(map(holds_scores, rewards)))
    read = read_suite(suite, data or {}, partial=options.partial) if needed else None
    if read is not None:
        check_rules([unrewarded(row) for row in read.rows], suite)
    # whatever can be refused is, before a reward model is loaded
    of_files = [_read(file, suite, read, options) for file in rewards]
    _check_names([*(spec.name for spec in reward_models), *(one.name for one in of_files)])
    scored = [
        _scored(spec, suite, read, store, options, settings)
        for spec in reward_models
        if read is not None
    ]
    rated = [*scored, *of_files]
    tables = tuple(table_of(one, suite, options) for one in rated)
    ranking = ranking_of(tables, suite, options) if len(tables) > 1 else None
    if len(tables) > 1 and ranking is None:
        alone = "no row is known to be shared by all reward models: they are not compared"
        tables = tuple(replace(table, notices=(*table.notices, alone)) for table in tables)
    return Accuracies(
        suite=suite,
        tables=tables,
        ranking=ranking,
        prompts={} if read is None else _prompts(read),
    )


def _scored(
    spec: RewardModelSpec,
    suite: Suite,
    read: SuiteData,
    store: Store,
    options: Options,
    settings: RunSettings | None,
) -> Rated:
    items = [item for row in read.rows if not row.problem for item in items_of(row, spec)]
    scored = score(spec, items, store, settings=settings)
    both_orders = suite.layout == BOTH_ORDERS
    rows = [scored_row(row, spec, scored, both_orders=both_orders) for row in read.rows]
    _check_any(spec.name, suite, rows)
    family = f"{spec.name}: {spec.family.note}" if spec.family.note else ""
    half = "" if spec.dtype == "float32" else f"rewards are computed in {spec.dtype}"
    return Rated(
        spec.name,
        spec,
        rows,
        list(filter(None, [spec.notice, *read.notices, family, half])),
        _signature(suite, read.digest, spec, "", rows, options),
    )


def _read(source: str, suite: Suite, read: SuiteData | None, options: Options) -> Rated:
    """The rewards of a file; scores by id are joined to the suite's own rows."""
    notices = [] if read is None else list(read.notices)
    if holds_scores(source) and read is not None:
        name, rows = file_name(source), joined(read.rows, read_scores(source), source)
    else:
        file = read_rewarded(source)
        name, rows = file.reward_model, in_subsets(file, suite, source)
        if read is not None:
            known = {(row.subset, row.row_id) for row in read.rows}
            rows = with_texts(rows, read.rows)
            if unknown := sum(key not in known for key in numbered(rows)):
                notices.append(f"{count(unknown, 'row')} of {name} with no id of the suite's data")
        notices.append(f"{name}: rewards as given, taken for Bradley-Terry rewards in its margins")
        check_rules(rows, suite)
        notices = [*notices, *check_numbers(suite, source, rows, partial=options.partial)]
    _check_any(name, suite, rows)
    said = (
        (r.subset, r.row_id, r.rewards, r.swapped, r.correct, r.position, r.cluster, r.magnitude)
        for r in rows
    )
    identity = digest("rewards", sorted(map(repr, said)))
    return Rated(
        name,
        None,
        rows,
        notices,
        _signature(suite, "" if read is None else read.digest, None, identity, rows, options),
    )


def _check_any(name: str, suite: Suite, rows: Sequence[RewardedRow]) -> None:
    if all(row.problem for row in rows):
        raise MissingError(
            f"{name!r} gives no row of {suite.title} a reward",
            where=f"{rows[0].where}: {rows[0].problem}",
            fix="mend what this first row says",
        )


def _check_names(names: Sequence[str]) -> None:
    repeated = next((name for name in names if names.count(name) > 1), None)
    if repeated is not None:
        raise InputError(
            f"two reward models are called {repeated!r}", fix="rename a file, or leave one out"
        )


def _prompts(read: SuiteData) -> dict[tuple[str, str], str]:
    return {
        (row.subset, row.row_id): "\n\n".join(turn.content for turn in row.messages)
        for row in read.rows
    }


def _signature(
    suite: Suite,
    data: str,
    spec: RewardModelSpec | None,
    rewards: str,
    rows: Sequence[RewardedRow],
    options: Options,
) -> Signature:
    return Signature(
        suite=f"{suite.name}#{data[:12]}" if data else suite.name,
        rm="" if spec is None else spec.label,
        rewards=rewards[:12],
        dtype="" if spec is None else spec.dtype,
        max_length=None if spec is None else spec.max_length,
        overlong="" if spec is None else spec.overlong,
        output="" if spec is None else spec.family.output,
        n=sum(not row.problem for row in rows),
        errors=sum(bool(row.problem) for row in rows),
        truncated=sum(row.truncated for row in rows),
        credit=suite.credit,
        tie=repr(options.tie),
        ci=f"wilson,cumulants;{options.level!r}",
        seed=options.seed,
        version=__version__,
    )
