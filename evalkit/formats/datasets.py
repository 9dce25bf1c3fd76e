"""Records of a Parquet file, a data-set folder or a Hub data set, through `datasets`.

Parquet and Arrow carry their types, so nothing is guessed. Folders of other files are refused:
reading JSON or CSV that way would retype texts that look like dates or numbers.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from evalkit.errors import InputError, MissingError
from evalkit.formats.fields import Record
from evalkit.text import first_line

# Arrow's errors and those of `datasets` are among them
UNREADABLE = (OSError, ValueError, KeyError, TypeError)
HUB = re.compile(r"hf://(?P<name>[\w.-]+/[\w.-]+)(@(?P<revision>[\w./-]+))?(#(?P<split>[\w.-]+))?")


def is_hub(source: str) -> bool:
    """Whether `source` names a data set of the Hub."""
    return source.startswith("hf://")


def records(source: str) -> Iterator[Record]:
    """Every row of the one split of `source`.

    Raises:
        InputError: Not a data set, or several splits and none named with `#split`.
        MissingError: `datasets` is not installed, or the data set is not on this machine.
    """
    path = Path(source)
    try:
        if path.suffix == ".parquet":
            rows = _parquet([source])
        else:
            datasets = _datasets(source)
            loaded = _hub(source, datasets) if is_hub(source) else _local(path, datasets)
            rows = _split(source, loaded)
        for number, row in enumerate(rows, start=1):
            yield Record(f"{source}, row {number}", row)
    except UNREADABLE as error:
        raise InputError(
            f"{source} is no readable data set: {first_line(error)}",
            fix="check its files, or fetch it again",
        ) from None


def _datasets(source: str) -> Any:
    try:
        import datasets
    except ModuleNotFoundError:
        raise MissingError(
            f"reading {source} needs the `datasets` package",
            fix='pip install "evalkit-rm[models]"',
        ) from None
    datasets.logging.set_verbosity(logging.CRITICAL)  # what it would say is in our errors
    return datasets


def _hub(source: str, datasets: Any) -> Any:
    match = HUB.fullmatch(source)
    if match is None:
        raise InputError(
            f"{source} is not of the form hf://org/name[@revision][#split]", fix="correct it"
        )
    try:
        loaded = datasets.load_dataset(match["name"], revision=match["revision"])
    except (OSError, ValueError, ConnectionError) as error:
        raise MissingError(
            f"data set {match['name']} is not on this machine",
            where=first_line(error),
            fix="run the same command with `evalkit --allow-download …`",
        ) from None
    return {match["split"]: loaded[match["split"]]} if match["split"] in loaded else loaded


def _local(path: Path, datasets: Any) -> Any:
    if any((path / name).exists() for name in ("state.json", "dataset_dict.json")):
        return datasets.load_from_disk(str(path))
    if not any(path.rglob("*.parquet")):
        raise InputError(
            f"{path} is a folder without completions.jsonl, Parquet files or a saved data set",
            fix="name a file, or a folder of Parquet files",
        )
    splits = datasets.load_dataset_builder(str(path)).config.data_files
    return {name: _parquet(files) for name, files in splits.items()}


def _parquet(files: Iterable[str]) -> Iterator[Mapping[str, Any]]:
    """Rows of Parquet files; `datasets` would stream them too, but import torch for it."""
    import pyarrow.parquet as pq

    for name in files:
        with pq.ParquetFile(name) as file:
            for batch in file.iter_batches(use_threads=False):
                yield from batch.to_pylist()


def _split(source: str, loaded: Any) -> Iterator[Mapping[str, Any]]:
    if not isinstance(loaded, Mapping):
        yield from loaded
        return
    if len(loaded) > 1:
        raise InputError(
            f"{source} has the splits {', '.join(loaded)}",
            fix=f"name one: {source}#{next(iter(loaded))}"
            if is_hub(source)
            else "name the folder or file of one split",
        )
    yield from next(iter(loaded.values()))
