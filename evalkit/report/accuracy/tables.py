"""Accuracy runs as rows of cells and as sentences, for every format that people read."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Literal, NamedTuple

from evalkit.accuracy.result import Accuracies, AccuracyTable, Margins, Part
from evalkit.report.layout import Block
from evalkit.report.tables import UNDEFINED, amount, difference, rate, share
from evalkit.suites.definition import Credit
from evalkit.text import count, listing, printable

CREDITS: Mapping[Credit, str] = {
    "strict": "strict credit: a tie is wrong",
    "half-credit": "half credit: a right answer among m at the top counts 1/m",
}
OTHER: Mapping[Credit, Credit] = {"strict": "half-credit", "half-credit": "strict"}
COUNTS = ("n", "ties", "errors", "truncated")
LENGTH = ("longest", "shortest", "ahead of length")
MARK = "*"
LEGEND = f"{MARK} not surely better than picking by length alone"
COIN = math.log(2)  # log loss of saying one half each time
LOWEST = 3


class Place(NamedTuple):
    """What a row of the tables is about."""

    kind: Literal["overall", "section", "subset"]
    name: str

    def of(self, table: AccuracyTable) -> Part | None:
        """The part of a reward model; None if it has no such rows."""
        if self.kind == "overall":
            return table.overall
        return (table.sections if self.kind == "section" else table.subsets).get(self.name)


OVERALL = Place("overall", "overall")


def places(run: Accuracies) -> list[Place]:
    """The sections that any reward model has, each followed by its subsets; without the overall."""
    found = []
    for section in run.suite.sections:
        found.append(Place("section", section.name))
        found += [Place("subset", subset.name) for subset in section.subsets]
    if not run.suite.sections:
        found += [Place("subset", subset.name) for subset in run.suite.subsets]
    return [place for place in found if any(place.of(table) for table in run.tables)]


def level(run: Accuracies) -> float:
    """Nominal coverage of the intervals."""
    return run.tables[0].overall.score.strict.level


def title(run: Accuracies) -> str:
    """What was measured: the suite, what a tie counts, and the intervals."""
    return (
        f"accuracy on {run.suite.title}; {CREDITS[run.suite.credit]}; "
        f"{100 * level(run):g} % intervals"
    )


def named(table: AccuracyTable) -> str:
    """A reward model with the beginning of its fingerprint, where it has one."""
    spec = table.spec
    known = "" if spec is None else f" #{spec.fingerprint[:16]} ({spec.dtype})"
    return f"{table.reward_model}{known}"


def results(run: Accuracies) -> Block:
    """The table of one reward model, or the matrix of several, and what their parts say."""
    table = _matrix(run) if len(run.tables) > 1 else _table(run, run.tables[0])
    return Block("Results", table, _said(run))


def legend(run: Accuracies) -> list[str]:
    """What the mark in the table means, if it is there."""
    marked = any(behind(place.of(t)) for place in (OVERALL, *places(run)) for t in run.tables)
    return [LEGEND] if marked else []


def behind(part: Part | None) -> bool:
    """Whether the length-only baseline is known and not surely beaten."""
    length = None if part is None else part.length
    return length is not None and length.ahead.value is not None and not length.beaten


def verdicts(run: Accuracies) -> list[str]:
    """A sentence per reward model: its overall, and how it stands to picking by length alone."""
    return [_verdict(run, table) for table in run.tables]


def notices(run: Accuracies) -> list[str]:
    """What a reader must know, of the run and of its parts, each once."""
    notes = [
        f"{place.name}: {part.note}"
        for place in (*places(run), OVERALL)
        for table in run.tables
        if (part := place.of(table)) and part.note
    ]
    of_suite = " ".join(run.suite.notes.split())
    said = [*(n for table in run.tables for n in table.notices), of_suite, *notes]
    return list(dict.fromkeys(filter(None, said)))


# Tables


def _table(run: Accuracies, table: AccuracyTable) -> list[list[str]]:
    """Sections with their subsets below them, then the overall."""
    credit = run.suite.credit
    other = OTHER[credit].replace("-", " ")
    rows = [["", "accuracy", other, *COUNTS, *LENGTH, "weight"]]
    for place in (*places(run), OVERALL):
        part = place.of(table)
        if part is None:
            continue
        score = part.score
        rows.append(
            [
                _label(run, place),
                _accuracy(part, credit),
                share(score.of(OTHER[credit])),
                *_counts(part),
                *_length(part),
                _weight(place, part),
            ]
        )
    return rows


def _matrix(run: Accuracies) -> list[list[str]]:
    """The overall and what stands beside it, sections and subsets; a column per reward model."""
    other = OTHER[run.suite.credit]
    beside = [
        [share(table.overall.score.of(other)), *_counts(table.overall)[1:], *_length(table.overall)]
        for table in run.tables
    ]
    names = (other.replace("-", " "), *COUNTS[1:], *LENGTH)
    return [
        ["", "n", *(printable(table.reward_model) for table in run.tables)],
        _across(run, OVERALL),
        *([f"overall: {name}", "", *cells] for name, *cells in zip(names, *beside, strict=True)),
        *(_across(run, place) for place in places(run)),
    ]


def _across(run: Accuracies, place: Place) -> list[str]:
    parts = [place.of(table) for table in run.tables]
    n = sorted({part.score.n for part in parts if part})
    rows = f"{n[0]}" if len(n) == 1 else f"{n[0]}–{n[-1]}"
    cells = [UNDEFINED if part is None else _accuracy(part, run.suite.credit) for part in parts]
    return [_label(run, place), rows, *cells]


def _label(run: Accuracies, place: Place) -> str:
    below = place.kind == "subset" and run.suite.sections
    return f"{'  ' if below else ''}{printable(place.name)}"


def _accuracy(part: Part, credit: Credit) -> str:
    return f"{rate(part.score.of(credit))}{f' {MARK}' if behind(part) else ''}"


def _counts(part: Part) -> list[str]:
    score = part.score
    return [f"{score.n}", f"{score.ties}", f"{score.errors}", f"{score.truncated}"]


def _length(part: Part) -> list[str]:
    length = part.length
    if length is None:
        return [UNDEFINED] * len(LENGTH)
    return [share(length.longest), share(length.shortest), difference(length.ahead)]


def _weight(place: Place, part: Part) -> str:
    if part.weight is not None:
        return f"{part.weight:g}"
    return "" if place.kind == "overall" else "its rows"


# Sentences


def _verdict(run: Accuracies, table: AccuracyTable) -> str:
    part = table.overall
    estimate = part.score.of(run.suite.credit)
    name, score = table.reward_model, part.score
    if estimate.value is None:
        rows = f"{count(score.n, 'row')} with a verdict, {score.errors} without"
        return f"{name}: no accuracy on {run.suite.title} ({rows})."
    found = f"accuracy {rate(estimate)} on {run.suite.title} ({count(score.n, 'row')})"
    return f"{name}: {found}; {_against_length(part)}."


def _against_length(part: Part) -> str:
    """How a part stands to picking by length alone, as the interval supports it."""
    length = part.length
    if length is None:
        return "no length-only baseline to hold it against"
    baseline = (
        f"the length-only baseline (longest {share(length.longest)}, "
        f"shortest {share(length.shortest)})"
    )
    ahead = length.ahead
    if ahead.value is None:
        return f"undefined against {baseline}"
    by = f"{difference(ahead)} points"
    if length.beaten:
        return f"better than {baseline} by {by}"
    if ahead.high is not None and ahead.high < 0:
        return f"not better than {baseline} but worse, {by}"
    where = "below it" if ahead.value < 0 else "level with it" if not ahead.value else "above it"
    return f"not better than {baseline}: {where}, but not surely, {by}"


def _said(run: Accuracies) -> list[str]:
    """What subsets, views and margins say, in words: of one kind after the other."""
    kinds: dict[str, Callable[[AccuracyTable], str]] = {
        "length": _length_of_subsets,
        "lowest": lambda table: _lowest(run, table),
        "views": _views,
        "margins": lambda table: _margins(table.margins) if table.margins else "",
    }
    return [
        f"{kind}: {table.reward_model}: {said}"
        for kind, of in kinds.items()
        for table in run.tables
        if (said := of(table))
    ]


def _views(table: AccuracyTable) -> str:
    views = table.views.items()
    return "; ".join(f"{name.replace('_', ' ')} {rate(estimate)}" for name, estimate in views)


def _length_of_subsets(table: AccuracyTable) -> str:
    """The subsets on which picking by length alone does as well."""
    leads = {
        name: part.length.ahead.value or 0.0
        for name, part in table.subsets.items()
        if behind(part) and part.length
    }
    groups = {
        "at or below the length-only baseline on": [x for x, lead in leads.items() if lead <= 0],
        "not surely above it on": [x for x, lead in leads.items() if lead > 0],
    }
    return "; ".join(f"{said} {listing(found)}" for said, found in groups.items() if found)


def _lowest(run: Accuracies, table: AccuracyTable) -> str:
    """The subsets of the lowest accuracy; empty if there is nothing to choose from."""
    estimates = {name: part.score.of(run.suite.credit) for name, part in table.subsets.items()}
    values = {name: e.value for name, e in estimates.items() if e.value is not None}
    if len(values) <= LOWEST:
        return ""
    found = sorted(values, key=values.__getitem__)[:LOWEST]
    return ", ".join(f"{name} {rate(estimates[name])}" for name in found)


def _margins(margins: Margins) -> str:
    loss = margins.log_loss
    than = "a coin has"
    if loss.low is not None and loss.low > COIN:
        than = "worse than a coin's"
    elif loss.high is not None and loss.high < COIN:
        than = "better than a coin's"
    floor = f"{_number(margins.floor.mean)}, upper end {_number(margins.floor.high)}"
    scaled = margins.scaled_loss
    more = f"; scaled Bradley-Terry loss {amount(scaled)}" if scaled.n else ""
    return (
        f"log loss of σ(margin) {amount(loss)}, {than} {COIN:.3f}; calibration error "
        f"{_number(margins.calibration_error)} (of sampling alone {floor}){more}"
    )


def _number(value: float) -> str:
    return f"{value:.3f}" if math.isfinite(value) else UNDEFINED
