"""Families as data: how each layout of reward model turns text into a number.

`families.toml` describes the layouts, `published.toml` the models people use; both are read here
and nowhere else. A family is told by a known id, by extra files and by the names of its head's
tensors, confirmed by their shapes; the class a checkpoint declares only ever narrows the choice.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal, cast

from evalkit.errors import InputError, RefusedModelError
from evalkit.files import read_toml
from evalkit.reward_models import nets
from evalkit.reward_models.checkpoint import Checkpoint
from evalkit.reward_models.parameters import LAYERED, NETS, PARAMETERS, inconsistencies, wrong
from evalkit.text import clip, did_you_mean, listing

Output = Literal["bradley-terry", "relative", "absolute", "preference"]
OUTPUTS: tuple[Output, ...] = ("bradley-terry", "relative", "absolute", "preference")
PLAIN = "sequence-classifier"

KEYS = ("title", "kind", "output", "attributes", "classes", "where", "detect", "fixture", "note",
        "requires")  # fmt: skip


@dataclass(frozen=True)
class Family:
    """One layout of reward model.

    Attributes:
        name: As in `--family`.
        kind: Which adapter computes it.
        output: What its number is, which rules the metrics it can be used for.
        parameters: What the adapter needs beyond the files; only what a table sets.
        attributes: Names of what it computes beside the reward, in order.
        title: For people.
        classes: Patterns of the class names it is published under; empty for any.
        where: config.json keys with the values that tell it from its relatives.
        detect: Whether its files alone can tell it; False where a plain language model would do.
        requires: Files beside the safetensors that are part of it.
        fixture: The fixture its arithmetic is held against; empty if none.
        note: What a user must know.
    """

    name: str
    kind: str
    output: Output
    parameters: Mapping[str, Any] = field(hash=False)
    attributes: tuple[str, ...] = ()
    title: str = ""
    classes: tuple[str, ...] = ()
    where: Mapping[str, Any] = field(default_factory=dict, hash=False)
    detect: bool = True
    requires: tuple[str, ...] = ()
    fixture: str = ""
    note: str = ""

    def setting(self, key: str) -> Any:
        """A parameter, or its default; None if the kind has none of that name."""
        return self.parameters.get(key, PARAMETERS.get(self.kind, {}).get(key))

    @property
    def checked(self) -> str:
        """What its arithmetic was held against, in words."""
        return f"fixture {self.fixture}" if self.fixture else "not yet"

    @property
    def prefixes(self) -> list[str]:
        """Name prefixes of the tensors that make up its head."""
        if self.requires:
            return []  # the head is in these files
        return [self.parameters[key] for key in NETS if self.parameters.get(key)]

    def claims(self, tensor: str) -> bool:
        """Whether a tensor belongs to the head, or is known to be of no use."""
        ignored = self.parameters.get("ignore", ())
        return tensor in ignored or any(nets.below(tensor, net) for net in self.prefixes)

    def rule(self, key: str) -> nets.Rule:
        """How the net of one of `NETS` is laid out."""
        given = {k.removeprefix(f"{key}_"): v for k, v in self.parameters.items()
                 if k.startswith(f"{key}_")}  # fmt: skip
        if isinstance(given.get("bias"), bool):  # as some config.json says it
            given["bias"] = "all" if given["bias"] else "none"
        return nets.Rule(**{k: v for k, v in given.items() if k in nets.Rule._fields})

    def with_parameters(self, changes: Mapping[str, Any], where: str) -> Family:
        """The family with some parameters set otherwise.

        Raises:
            InputError: A parameter the kind does not have, or one of another type.
        """
        known = PARAMETERS[self.kind]
        for key, value in changes.items():
            if key not in known:
                raise InputError(
                    f"family {self.name!r} has no parameter {key!r}",
                    where=where,
                    fix=f"known: {listing(sorted(known), shown=40)}. "
                    f"{did_you_mean(key, known)}".strip(),
                )
            if problem := wrong(key, value, known[key]):
                raise InputError(
                    f"parameter {key!r} of family {self.name!r} {problem}, got {clip(value)}",
                    where=where,
                    fix="correct it",
                )
        return replace(self, parameters={**self.parameters, **changes})

    def resolved(self, checkpoint: Checkpoint) -> Family:
        """The family with every value that config.json holds looked up there."""
        config = checkpoint.config
        found = {}
        for key, value in self.parameters.items():
            from_config = isinstance(value, Mapping)
            found[key] = config.get(value["config"], value.get("default")) if from_config else value
            if found[key] is None:
                raise RefusedModelError(
                    f"config.json of reward model {checkpoint.name!r} lacks {value['config']!r}, "
                    f"which family {self.name!r} needs",
                    where=str(checkpoint.folder),
                    fix="fetch it again, or name its --family",
                )
        sure = replace(self, parameters={}).with_parameters(found, str(checkpoint.folder))
        return replace(sure, attributes=sure._named(checkpoint))

    def _named(self, checkpoint: Checkpoint) -> tuple[str, ...]:
        """The attributes; numbered where a mixture has more or fewer than its relatives."""
        n = len(self.attributes)
        if self.requires:
            stated = checkpoint.config.get("num_objectives")
            n = stated // self.setting("bins") if isinstance(stated, int) else n
        elif self.kind == "gated":
            n = nets.outputs(self.setting("gate"), checkpoint.shapes) or n
        numbered = tuple(f"objective-{i + 1}" for i in range(n))
        return self.attributes if n == len(self.attributes) else numbered

    def allows(self, declared: str) -> bool:
        """Whether a checkpoint of that class may be of this family."""
        return not self.classes or any(fnmatchcase(declared, name) for name in self.classes)

    def mismatches(self, checkpoint: Checkpoint) -> list[str]:
        """Why the checkpoint is not of this family; empty if it may be."""
        config = checkpoint.config
        every = {**PARAMETERS[self.kind], **self.parameters}
        problems = list(inconsistencies(self.kind, every, len(self.attributes)))
        problems += [
            f"config.json has {key} {config.get(key)!r}"
            for key, value in self.where.items()
            if config.get(key) != value
        ]
        return [*problems, *self.head_problems(checkpoint)]

    def head_problems(self, checkpoint: Checkpoint) -> list[str]:
        """What of its files and tensors is missing or laid out otherwise."""
        problems = [
            f"no file {name}" for name in self.requires if not (checkpoint.folder / name).is_file()
        ]
        strip = self.parameters.get("strip")
        if strip and not any(name.startswith(strip) for name in checkpoint.shapes):
            problems.append(f"no tensor {strip}*")
        problems += self._net_problems(checkpoint)
        if self.kind == "gated" and not self.requires and not problems:
            problems += self._mixture_problems(checkpoint)
        return problems

    def _net_problems(self, checkpoint: Checkpoint) -> Iterator[str]:
        """Why the tensors of the head are not laid out as its family's are."""
        shapes = checkpoint.shapes
        if self.requires:
            return  # the heads are in these files, which are looked into when they are loaded
        for key in filter(self.parameters.get, LAYERED):
            width = checkpoint.hidden_size * (2 if self.kind == "pair-head" else 1)
            yield from nets.problems(self.setting(key), self.rule(key), shapes, width)
        wanted = [self.setting(key) for key in ("transform", "scale") if self.setting(key)]
        if buffers := self.setting("normalizer"):
            wanted += [f"{buffers}.mean", f"{buffers}.var"]
        yield from (f"no tensor {name}" for name in wanted if name not in shapes)

    def _mixture_problems(self, checkpoint: Checkpoint) -> Iterator[str]:
        """Why a regression head and its gate do not fit each other."""
        columns = self.setting("columns")
        out, gates = (
            nets.outputs(self.setting(key), checkpoint.shapes) for key in ("regression", "gate")
        )
        if out != gates * columns:
            yield f"{out} outputs where {gates} gates × {columns} columns need {gates * columns}"


def family(name: str) -> Family:
    """A family by its name, or that of a published model by the model's id.

    Raises:
        InputError: There is none of that name.
    """
    if name in _families():
        return _families()[name]
    if name in published():
        return published()[name].family
    known = [*_families(), *published()]
    raise InputError(
        f"unknown family {name!r}",
        fix=f"known: {listing(list(_families()), shown=40)}, or the id of a published model. "
        f"{did_you_mean(name, known)}".strip(),
    )


def families() -> list[Family]:
    """All families, in the order they are tried."""
    return list(_families().values())


@dataclass(frozen=True)
class Published:
    """A model people use.

    Attributes:
        id: `org/name` on the Hub.
        family: With the parameters that are its own.
        licence: As its card states it; empty if not read.
        max_length: Tokens its authors use; None if they state none.
        checked: How evalkit's number was held against its authors': a sentence.
        examples: Scores its card publishes.
    """

    id: str
    family: Family
    licence: str
    max_length: int | None
    checked: str
    examples: tuple[float, ...]


@cache
def published() -> dict[str, Published]:
    """The published models by id."""
    path = _data("published.toml")
    return {model.id: model for id_, table in read_toml(path).items()
            for model in _published(id_, table, path)}  # fmt: skip


def _data(name: str) -> Path:
    return Path(str(files("evalkit.reward_models").joinpath(name)))


@cache
def _families() -> dict[str, Family]:
    path = _data("families.toml")
    tables = read_toml(path)
    return {
        name: _family(name, {**tables.get(table.pop("like", ""), {}), **table}, path)
        for name, table in tables.items()
    }


def _family(name: str, table: Mapping[str, Any], path: Path) -> Family:
    kind, output = str(table["kind"]), table["output"]
    if kind not in PARAMETERS or output not in OUTPUTS:
        raise InputError(
            f"family {name!r} is of kind {kind!r}, output {output!r}",
            where=str(path),
            fix="correct it",
        )
    bare = Family(
        name=name,
        kind=kind,
        output=cast("Output", output),
        parameters={},
        attributes=tuple(table.get("attributes", ())),
        title=table.get("title", name),
        classes=tuple(table.get("classes", ())),
        where=table.get("where", {}),
        detect=table.get("detect", True),
        requires=tuple(table.get("requires", ())),
        fixture=table.get("fixture", ""),
        note=table.get("note", ""),
    )
    return bare.with_parameters({k: v for k, v in table.items() if k not in KEYS}, str(path))


PUBLISHED_KEYS = ("family", "output", "attributes", "licence", "max_length", "checked", "examples",
                  "note", "also")  # fmt: skip


def _published(id_: str, table: Mapping[str, Any], path: Path) -> Iterator[Published]:
    base = _families()[table["family"]]
    changes = {k: v for k, v in table.items() if k not in PUBLISHED_KEYS}
    own = replace(
        base.with_parameters(changes, str(path)),
        output=table.get("output", base.output),
        attributes=tuple(table.get("attributes", base.attributes)),
        note=table.get("note", base.note),
    )
    for name in (id_, *table.get("also", ())):
        yield Published(
            id=name,
            family=own,
            licence=table.get("licence", ""),
            max_length=table.get("max_length"),
            checked=table.get("checked", base.checked),
            examples=tuple(table.get("examples", ())),
        )
