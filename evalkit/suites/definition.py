"""What a TOML file says of a suite: its sources, sections and subsets, checked key by key."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast, get_args

from evalkit.errors import InputError
from evalkit.files import check_keys, read_toml
from evalkit.formats.suite_rows import LAYOUTS
from evalkit.text import clip, did_you_mean

Credit = Literal["strict", "half-credit"]
Rule = Literal["best", "ties", "styles"]
SUITE: Mapping[str, type] = {
    "title": str,
    "layout": str,
    "credit": str,
    "source": str,
    "licence": str,
    "notes": str,
    "pooled": bool,
    "data": list,
    "columns": dict,
    "sections": dict,
    "subsets": dict,
}
DATA: Mapping[str, type] = {
    "name": str,
    "hub": str,
    "rows": int,
    "optional": bool,
    "checksum": str,
    "files": dict,
    "splits": list,
}
SECTION: Mapping[str, type] = {"weight": float, "subsets": dict}
SUBSET: Mapping[str, type] = {"rows": int, "weight": float, "note": str, "rule": str, "data": str}
HEAVIEST = 10**9
RULES_OF_ONE_LAYOUT = {"ties": "best-of", "styles": "rm-bench"}


@dataclass(frozen=True, slots=True)
class Data:
    """One source of a suite's rows.

    Attributes:
        name: How `--data NAME=PATH` calls it.
        hub: Where it is read from if no path is given; empty if it is on no Hub.
        rows: How many it has; None where nobody has counted.
        optional: Whether the suite can do without it; it is read only where a path is given.
        checksum: `rows_digest` of its rows; empty where nobody has computed it.
        files: Pattern below a folder -> the subset of the files it matches; empty if their rows
            name their own.
        splits: Splits of the Hub's data set, each a subset of that name.
    """

    name: str
    hub: str
    rows: int | None
    optional: bool
    checksum: str
    files: Mapping[str, str]
    splits: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Subset:
    """The smallest group of rows with an accuracy of its own.

    Attributes:
        name: As the rows name it.
        rows: How many it has; None where nobody has counted.
        weight: Within its section, or in the overall where there are no sections; above 0.
        note: What a reader must know about it.
        rule: When a row is right: the best answer is a right one; RewardBench 2's Ties score;
            RM-Bench's styles.
        data: The `Data` it comes from.
    """

    name: str
    rows: int | None
    weight: float
    note: str
    rule: Rule
    data: str


@dataclass(frozen=True, slots=True)
class Section:
    """Subsets with one accuracy together; `weight` is that in the overall."""

    name: str
    weight: float
    subsets: tuple[Subset, ...]


@dataclass(frozen=True, slots=True)
class Suite:
    """A benchmark of labelled rows, as its TOML file describes it.

    Attributes:
        name: The file's, without `.toml`.
        title: How reports call it.
        layout: One of `evalkit.formats.suite_rows.LAYOUTS`.
        credit: What a tie counts in the published number: nothing, or its share.
        pooled: Whether the overall is the share over all rows.
        source: Where its numbers and rows come from.
        licence: Of the rows.
        notes: What a reader must know about it.
        data: Its sources, at least one.
        columns: Field of the layout -> what the files call it.
        sections: Empty if the subsets weigh in the overall themselves.
        subsets: All of them, in order.
        path: The file.
    """

    name: str
    title: str
    layout: str
    credit: Credit
    pooled: bool
    source: str
    licence: str
    notes: str
    data: tuple[Data, ...]
    columns: Mapping[str, str]
    sections: tuple[Section, ...]
    subsets: tuple[Subset, ...]
    path: str

    def subsets_of(self, data: Data) -> list[Subset]:
        """The subsets whose rows come from `data`."""
        return [subset for subset in self.subsets if subset.data == data.name]


def read_definition(path: Path) -> Suite:
    """The suite that a TOML file describes.

    Raises:
        InputError: An unknown key, a value of another type, or parts that do not fit together;
            the file is named.
    """
    table = read_toml(path)
    check_keys(path, "the file", table, SUITE)
    layout = _choice(path, "layout", table.get("layout", ""), tuple(LAYOUTS))
    data = tuple(_data(path, entry) for entry in table.get("data", ()))
    if not data or data[0].optional or len({part.name for part in data}) < len(data):
        raise _wrong(path, "[[data]]", "one or more, the first not optional, each name once")
    sections = tuple(
        _section(path, name, entry, data) for name, entry in table.get("sections", {}).items()
    )
    bare = _subsets(path, "subsets", table.get("subsets", {}), data)
    subsets = (*bare, *(subset for section in sections for subset in section.subsets))
    if not subsets or (bare and sections) or len({s.name for s in subsets}) < len(subsets):
        what = "[subsets.NAME] or [sections.NAME.subsets.NAME], not both, each name once"
        raise _wrong(path, "subsets", what)
    suite = Suite(
        name=path.stem,
        title=table.get("title", path.stem),
        layout=layout,
        credit=cast("Credit", _choice(path, "credit", table.get("credit"), get_args(Credit))),
        pooled=table.get("pooled", False),
        source=table.get("source", ""),
        licence=table.get("licence", ""),
        notes=table.get("notes", ""),
        data=data,
        columns=_columns(path, layout, table.get("columns", {})),
        sections=sections,
        subsets=subsets,
        path=str(path),
    )
    _check_parts(path, suite)
    return suite


def _check_parts(path: Path, suite: Suite) -> None:
    """The subsets fit the layout and the data they come from."""
    for subset in suite.subsets:
        if RULES_OF_ONE_LAYOUT.get(subset.rule, suite.layout) != suite.layout:
            raise _wrong(path, f"rule of {subset.name}", f"one that rows of {suite.layout} have")
    for data in suite.data:
        subsets = suite.subsets_of(data)
        names = [subset.name for subset in subsets]
        for named in (*filter(None, data.files.values()), *data.splits):
            _choice(path, f"a subset of data {data.name!r}", named, names)
        rows = [subset.rows or 0 for subset in subsets]
        if not rows or (data.rows is not None and 0 not in rows and sum(rows) != data.rows):
            what = f"those of its subsets, which are {sum(rows)}"
            raise _wrong(path, f"rows of data {data.name!r}", what)


def _data(path: Path, entry: object) -> Data:
    if not isinstance(entry, dict):
        raise _wrong(path, "[[data]]", "a table")
    check_keys(path, "[[data]]", entry, DATA)
    patterns, splits = entry.get("files", {}), entry.get("splits", [])
    if not all(isinstance(subset, str) for subset in (*patterns.values(), *splits)):
        raise _wrong(path, "files and splits", "texts")
    if any(Path(pattern).is_absolute() or not pattern for pattern in patterns):
        raise _wrong(path, "files", "patterns below a folder")
    if not entry.get("name"):
        raise _wrong(path, "name of [[data]]", 'a name, such as "main"')
    return Data(
        name=entry["name"],
        hub=entry.get("hub", ""),
        rows=_rows(path, "[[data]]", entry),
        optional=entry.get("optional", False),
        checksum=entry.get("checksum", ""),
        files=patterns,
        splits=tuple(splits),
    )


def _columns(path: Path, layout: str, columns: Mapping[str, object]) -> dict[str, str]:
    check_keys(path, "[columns]", columns, dict.fromkeys(LAYOUTS[layout].fields(), str))
    return {role: str(column) for role, column in columns.items()}


def _section(path: Path, name: str, entry: object, data: Sequence[Data]) -> Section:
    place = f"sections.{name}"
    table = _table(path, place, entry, SECTION)
    subsets = _subsets(path, f"{place}.subsets", table.get("subsets", {}), data)
    if not subsets:
        raise _wrong(path, place, f"a table with [{place}.subsets.NAME]")
    return Section(name, _weight(path, place, table), subsets)


def _subsets(
    path: Path, place: str, tables: Mapping[str, object], data: Sequence[Data]
) -> tuple[Subset, ...]:
    return tuple(_subset(path, f"{place}.{name}", name, t, data) for name, t in tables.items())


def _subset(path: Path, place: str, name: str, entry: object, data: Sequence[Data]) -> Subset:
    table = _table(path, place, entry, SUBSET)
    rule = _choice(path, f"rule of {place}", table.get("rule", "best"), get_args(Rule))
    names = tuple(part.name for part in data)
    return Subset(
        name=name,
        rows=_rows(path, place, table),
        weight=_weight(path, place, table),
        note=table.get("note", ""),
        rule=cast("Rule", rule),
        data=_choice(path, f"data of {place}", table.get("data", names[0]), names),
    )


def _table(path: Path, place: str, entry: object, known: Mapping[str, type]) -> dict[str, Any]:
    if not isinstance(entry, dict):
        raise _wrong(path, place, "a table")
    check_keys(path, f"[{place}]", entry, known)
    return entry


def _rows(path: Path, place: str, table: Mapping[str, Any]) -> int | None:
    if table.get("rows", 1) < 1:
        raise _wrong(path, f"rows of {place}", "at least 1; leave it out where it is not known")
    return table.get("rows")


def _weight(path: Path, place: str, table: Mapping[str, Any]) -> float:
    weight = table.get("weight", 1)
    if not 0 < weight <= HEAVIEST:
        raise _wrong(path, f"weight of {place}", f"above 0, at most {HEAVIEST:,}")
    return float(weight)


def _choice(path: Path, place: str, value: object, known: Sequence[str]) -> str:
    if value in known:
        return str(value)
    hint = did_you_mean(str(value), known)
    raise _wrong(path, place, f"one of {', '.join(known)}, got {clip(value)}. {hint}".strip(". "))


def _wrong(path: Path, place: str, must: str) -> InputError:
    return InputError(f"{place} must be {must}", where=str(path), fix="correct this suite file")
