"""The accuracy of one reward model as RewardBench, the Hub and Every Eval Ever keep results."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal, get_args

from evalkit.accuracy.result import Accuracies, AccuracyTable
from evalkit.errors import InputError
from evalkit.formats.datasets import HUB
from evalkit.report.accuracy.tables import CREDITS, OVERALL, Place, places
from evalkit.report.evaluations import (
    EvaluationRun,
    HubDataset,
    Metric,
    Relationship,
    every_eval_ever,
    hub_entries,
    hub_yaml,
    indented,
    rewardbench_outputs,
    rewardbench_scores,
)
from evalkit.statistics.intervals import Estimate
from evalkit.statistics.ties import GREATEST, LEAST
from evalkit.suites.definition import Data, Subset, Suite
from evalkit.text import count, did_you_mean, listing

Kind = Literal["rewardbench-outputs", "rewardbench-scores", "hub", "every-eval-ever"]
KINDS: tuple[Kind, ...] = get_args(Kind)
MODEL_TYPES: Mapping[str, str] = {"classifier": "Seq. Classifier", "logprob": "DPO"}
UNKNOWN = "unknown"


def check_kind(kind: str) -> None:
    """Refuse another kind, before any work is done for it."""
    if kind not in KINDS:
        hint = did_you_mean(kind, KINDS)
        raise InputError(
            f"no export {kind!r}", fix=f"use one of {', '.join(KINDS)}. {hint}".strip()
        )


def exports(
    run: Accuracies,
    kind: str,
    date: str,
    *,
    organization: str = UNKNOWN,
    relationship: Relationship = "other",
) -> bytes:
    """The results of a run of one reward model, as others read them; the same bytes on every run.

    Args:
        run: One reward model on a suite.
        kind: One of `KINDS`.
        date: Of the evaluation, ISO 8601; RewardBench's files have none.
        organization: Who evaluated; only Every Eval Ever asks.
        relationship: Who that is to the reward model; only Every Eval Ever asks.

    Raises:
        InputError: Another kind, several reward models, no date, or something that the kind needs
            and the run does not have: prompts, pairs, a data set on the Hub, a value.
    """
    check_kind(kind)
    if len(run.tables) != 1:
        names = listing([table.reward_model for table in run.tables])
        raise InputError(
            f"{kind} holds one reward model, this run has {len(run.tables)}",
            fix=f"name one of them: {names}",
        )
    (table,) = run.tables
    makers: dict[str, Callable[[], bytes]] = {
        "rewardbench-outputs": lambda: _outputs(run, table),
        "rewardbench-scores": lambda: _scores(table),
        "hub": lambda: _hub(run, table, date),
        "every-eval-ever": lambda: _record(run, table, date, organization, relationship),
    }
    return makers[kind]()


# RewardBench


def _outputs(run: Accuracies, table: AccuracyTable) -> bytes:
    unknown = [row for row in table.rows if (row.subset, row.row_id) not in run.prompts]
    if unknown:
        raise InputError(
            f"the prompts of {count(len(unknown), 'row')} of {len(table.rows):,} are not known, "
            f"such as of row {unknown[0].row_id!r}",
            where=unknown[0].where,
            fix="give the suite's rows, or write rewardbench-scores, which has no prompts",
        )
    prompts = [run.prompts[row.subset, row.row_id] for row in table.rows]
    return rewardbench_outputs(table.rows, prompts)


def _scores(table: AccuracyTable) -> bytes:
    spec = table.spec
    kind = UNKNOWN if spec is None else MODEL_TYPES.get(spec.family.kind, "Custom Classifier")
    found = rewardbench_scores(
        table.rows,
        model=table.reward_model,
        model_type=kind,
        chat_template=UNKNOWN if spec is None else spec.template,
    )
    return indented(found)


# The Hub


def _hub(run: Accuracies, table: AccuracyTable, date: str) -> bytes:
    check_suite("hub", run.suite)
    score = table.overall.score
    counts = f"of all rows ties {score.ties}, errors {score.errors}, truncated {score.truncated}"
    notes = "; ".join([run.suite.title, CREDITS[run.suite.credit], counts, str(table.signature)])
    entries = []
    for data in run.suite.data:
        estimates = _tasks(run, table, data)
        if data.hub and estimates:
            entries += hub_entries(estimates, _dataset(data), date=date, notes=notes)
    if not entries:
        raise InputError("no accuracy has a value to record", where=run.suite.title)
    return hub_yaml(entries)


def check_suite(kind: str, suite: Suite) -> None:
    """Refuse a kind of export that the suite cannot have, before anything is scored.

    Raises:
        InputError: Its rows are on no Hub, or under a name that is none.
    """
    if kind == "hub" and not suite.data[0].hub:
        raise InputError(
            f"the rows of {suite.title} are on no Hub", where=suite.path,
            fix="write another kind, or name their `hub` in a suite file of your own",
        )  # fmt: skip
    if kind in {"hub", "every-eval-ever"}:
        for data in suite.data:
            if data.hub:
                _dataset(data)


def _tasks(run: Accuracies, table: AccuracyTable, data: Data) -> dict[str, Estimate]:
    """Task id -> accuracy, of what this data set holds; a name already taken says its kind.

    A part of several data sets, such as the overall, goes with that of its first subset.
    """
    found: dict[str, Estimate] = {}
    for place in (OVERALL, *places(run)):
        part = place.of(table)
        if part and _subsets(run.suite, place)[0].data == data.name:
            task = place.name if place.name not in found else f"{place.kind}: {place.name}"
            found[task] = part.score.of(run.suite.credit)
    return found


def _dataset(data: Data) -> HubDataset:
    match = HUB.fullmatch(data.hub)
    if match is None:
        raise InputError(
            f"{data.hub} is not of the form hf://org/name[@revision][#split]",
            fix="correct it in the suite's file",
        )
    return HubDataset(match["name"], match["revision"] or "")


def _subsets(suite: Suite, place: Place) -> tuple[Subset, ...]:
    """What a part is made of."""
    if place.kind == "overall":
        return suite.subsets
    if place.kind == "section":
        return next(section.subsets for section in suite.sections if section.name == place.name)
    return tuple(subset for subset in suite.subsets if subset.name == place.name)


# Every Eval Ever


def _record(
    run: Accuracies,
    table: AccuracyTable,
    date: str,
    organization: str,
    relationship: Relationship,
) -> bytes:
    suite, spec, data = run.suite, table.spec, run.suite.data[0]
    about = EvaluationRun(
        name=suite.name,
        model=table.reward_model,
        data=suite.title,
        organization=organization,
        relationship=relationship,
        date=date,
        hub=_dataset(data) if data.hub else None,
        signature=str(table.signature),
        model_details={}
        if spec is None
        else {"dtype": spec.dtype, "family": spec.family.name, "fingerprint": spec.fingerprint},
    )
    metrics = [
        _metric(suite, place, part.score.of(suite.credit))
        for place in (OVERALL, *places(run))
        if (part := place.of(table))
    ]
    return indented(every_eval_ever(about, metrics))


def _metric(suite: Suite, place: Place, estimate: Estimate) -> Metric:
    """One number; bounds that hold for each subset hold for their weighted means too."""
    ties = any(subset.rule == "ties" for subset in _subsets(suite, place))
    accuracy = "accuracy" if suite.credit == "strict" else "accuracy.half_credit"
    own = place.kind == "overall" or ties
    return Metric(
        name=suite.name if place.kind == "overall" else f"{suite.name}/{place.name}",
        estimate=estimate,
        metric_id=f"{suite.name}.{place.name}" if own else accuracy,
        bounds=(LEAST, GREATEST) if ties else (0.0, 1.0),
    )
