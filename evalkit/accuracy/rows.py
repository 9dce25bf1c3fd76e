"""Two ways to the rewards of a suite's rows: scoring them, or reading what others scored."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import permutations

import numpy as np

from evalkit.data import FloatArray, Item, Pair, conversation, digest, item_key
from evalkit.errors import InputError
from evalkit.formats.rewarded_rows import RewardedFile, RewardedRow
from evalkit.formats.scores import Score, answer_ids
from evalkit.reward_models.spec import RewardModelSpec
from evalkit.scoring import Scored
from evalkit.statistics.outcomes import win_probabilities
from evalkit.suites import Suite, SuiteRow
from evalkit.text import count, did_you_mean, listing

SHOWN = 3


def items_of(row: SuiteRow, spec: RewardModelSpec) -> list[Item]:
    """What must be scored for a row: each answer, or every two in both orders."""
    if spec.is_pairwise:
        return [Pair(row.messages, a, b) for a, b in permutations(row.answers, 2)]
    return [conversation(row.messages, answer) for answer in row.answers]


def unrewarded(row: SuiteRow) -> RewardedRow:
    """A row without its rewards."""
    return RewardedRow(
        row_id=row.row_id,
        subset=row.subset,
        rewards=(math.nan,) * len(row.answers),
        where=row.where,
        correct=row.correct,
        position=row.position,
        cluster=row.cluster,
        magnitude=row.magnitude,
        problem=row.problem,
        texts=row.answers,
    )


def scored_row(
    row: SuiteRow, spec: RewardModelSpec, scored: Scored, *, both_orders: bool
) -> RewardedRow:
    """A row with its rewards; a pair-preference model's are mean probabilities to beat another.

    Args:
        row: The row.
        spec: The reward model.
        scored: What it says of `items_of` the row.
        both_orders: Whether what a pair-preference model says of two answers in either order stays
            apart, the file's own order first, as JudgeBench's rule needs it.
    """
    keys = [] if row.problem else [item_key(item) for item in items_of(row, spec)]
    problems = [scored.problems[key] for key in keys if key in scored.problems]
    known = [scored.rewards[key] for key in keys if key in scored.rewards]
    found = replace(unrewarded(row), truncated=any(reward.cut for reward in known))
    if row.problem or problems:
        return replace(found, problem=row.problem or problems[0])
    values = [reward.reward for reward in known]
    if not spec.is_pairwise:
        return replace(found, rewards=tuple(values))
    chances = win_probabilities(np.array(values, dtype=np.float64))
    if both_orders and len(row.answers) == 2:
        calls = [(p, 1 - p) for p in (float(chances[0]), 1 - float(chances[1]))]
        first, second = reversed(calls) if row.position else calls
        return replace(found, rewards=first, swapped=second)
    return replace(found, rewards=_mean_chances(chances, len(row.answers)))


def _mean_chances(chances: FloatArray, answers: int) -> tuple[float, ...]:
    """Mean probability of each answer to beat another, as often read first as second."""
    table = np.full((answers, answers), np.nan)
    table[~np.eye(answers, dtype=bool)] = chances
    first, second = np.nanmean(table, axis=1), np.nanmean(1 - table, axis=0)
    return tuple(((first + second) / 2).tolist())


def joined(
    rows: Sequence[SuiteRow], scores: Mapping[str | int, Score], source: str
) -> list[RewardedRow]:
    """A suite's rows with the scores of a file that names each answer by its id.

    Raises:
        InputError: Scores of no row, or of two different rows.
    """
    _refuse_shared_ids(rows, source)
    by_id = {str(name): score for name, score in scores.items()}
    wanted = {name for row in rows for name in answer_ids(row.row_id, len(row.answers))}
    unknown = [name for name in by_id if name not in wanted]
    if unknown:
        raise InputError(
            f"{count(len(unknown), 'score')} of {source} belong to no answer of the data: "
            f"{listing(unknown, shown=SHOWN)}",
            where=by_id[unknown[0]].where,
            fix="ids are ROWID:chosen and ROWID:rejected, or ROWID:0, ROWID:1 … the right ones "
            f"first. {did_you_mean(unknown[0], sorted(wanted))}".strip(),
        )
    return [_with_scores(row, by_id) for row in rows]


def _with_scores(row: SuiteRow, scores: Mapping[str, Score]) -> RewardedRow:
    names = answer_ids(row.row_id, len(row.answers))
    problems = [
        f"{name}: {scores[name].problem if name in scores else 'no score'}"
        for name in names
        if name not in scores or scores[name].problem
    ]
    return replace(
        unrewarded(row),
        rewards=tuple(scores[n].reward if n in scores else math.nan for n in names),
        problem=row.problem or "; ".join(problems),
    )


def _refuse_shared_ids(rows: Sequence[SuiteRow], source: str) -> None:
    """Ids are unique in a subset only, and a score does not name its subset."""
    first: dict[str, SuiteRow] = {}
    for row in rows:
        other = first.setdefault(row.row_id, row)
        if (other.messages, other.answers) != (row.messages, row.answers):
            raise InputError(
                f"the scores of {source} cannot be told apart: {row.row_id!r} is the id of a row "
                f"of {other.subset!r} and of another of {row.subset!r}",
                where=row.where,
                fix='name a file with a "subset" and all "rewards" of a row a line instead',
            )


def in_subsets(file: RewardedFile, suite: Suite, source: str) -> list[RewardedRow]:
    """The rows of a file, each under the name of the suite's subset it belongs to.

    A path such as `Helpfulness/Code` stands for its first part; a row that names no subset belongs
    to a suite's only one.

    Raises:
        InputError: A subset the suite does not have.
    """
    known = [subset.name for subset in suite.subsets]
    found = []
    for row in file.rows:
        named = row.subset if row.subset in known else row.subset.partition("/")[0]
        if not row.subset and len(known) == 1:
            named = known[0]
        if named not in known:
            raise InputError(
                f"{source} holds a row of subset {row.subset!r}, which {suite.title} does not have",
                where=row.where,
                fix=f"known subsets: {listing(known)}. {did_you_mean(row.subset, known)}".strip(),
            )
        found.append(replace(row, subset=named))
    return found


def with_texts(rows: Sequence[RewardedRow], data: Sequence[SuiteRow]) -> list[RewardedRow]:
    """The rows with what the suite's own row of the same id knows and the file does not say."""
    known = {(row.subset, row.row_id): row for row in data}
    return [_completed(row, known.get(key)) for key, row in zip(numbered(rows), rows, strict=True)]


def _completed(row: RewardedRow, own: SuiteRow | None) -> RewardedRow:
    if own is None:
        return row
    if (len(own.answers), own.correct) != (len(row.rewards), row.correct):
        raise InputError(
            f"row {row.row_id!r} has {len(row.rewards)} rewards, {row.correct} of right answers; "
            f"the suite's row has {len(own.answers)} answers, {own.correct} of them right",
            where=row.where,
            fix="name the rewards of these rows, or the rows of these rewards",
        )
    return replace(
        row,
        cluster=row.cluster or own.cluster,
        magnitude=row.magnitude or own.magnitude,
        texts=row.texts or own.answers,
    )


def numbered(rows: Sequence[RewardedRow]) -> list[tuple[str, str]]:
    """What tells the rows apart, and finds them again under another reward model.

    `(subset, id)` where all rows have an id and none repeats in its subset; else, since
    RewardBench's own files repeat ids, their texts; a row without either is found nowhere else.
    """
    named = [(row.subset, row.row_id) for row in rows]
    if all(row.row_id for row in rows) and len(set(named)) == len(named):
        return named
    before: Counter[tuple[str, str]] = Counter()
    found = []
    for row in rows:
        key = (row.subset, digest("texts", row.texts) if row.texts else row.where)
        before[key] += 1
        found.append((row.subset, f"{key[1]} {before[key]}"))
    return found
