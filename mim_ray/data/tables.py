"""Hugging Face sets as a source."""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mim_ray.data.source import LABEL_NAMES, Integers, Labelled, needed, numbered, refuse_split
from mim_ray.errors import Failure, Mistake, nearest


def open_hub_table(text: str, name: str, split: str) -> "Table":
    return _open_table(text, _loaded(text, lambda: _load_hub(name, split)))


def open_saved_table(text: str, folder: Path, split: str) -> "Table":
    saved = _loaded(text, lambda: needed("datasets").load_from_disk(str(folder)))
    if not isinstance(saved, dict):
        refuse_split(text, split)
        return _open_table(text, saved)
    if split not in saved:
        raise Mistake(f"no split {split!r} in {text}{nearest(split, saved)}")
    return _open_table(text, saved[split])


@dataclass(eq=False)
class Table(Labelled):
    pictures: Any  # a datasets.Dataset of one column of files

    def image(self, index: int) -> bytes:
        (picture,) = self.pictures[index].values()
        return (picture["bytes"] or Path(picture["path"]).read_bytes()) if picture else b""


def _load_hub(name: str, split: str) -> Any:
    load = needed("datasets").load_dataset
    with _quiet_logs():
        try:
            return load(name, split=split)
        except FileNotFoundError:
            return load(*name.rsplit("/", 1), split=split)


@contextmanager
def _quiet_logs() -> Iterator[None]:
    """Without a line for each request to the hub and each retry; what comes of them is said in the end."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


def _loaded(text: str, load: Callable[[], Any]) -> Any:
    try:
        return load()
    except Exception as error:  # whatever the hub, the network or the disk raised
        kind = Mistake if str(error).startswith("Unknown split") else Failure
        raise kind(f"cannot load {text}: {error}".splitlines()[0]) from error


def _open_table(text: str, loaded: Any) -> Table:
    table = loaded.with_format(None)
    image = needed("datasets").Image
    columns = [name for name, feature in table.features.items() if isinstance(feature, image)]
    if not columns:
        raise Mistake(f"no image column in {text}: its columns are {', '.join(table.features)}")
    files = table.select_columns(columns[:1]).cast_column(columns[0], image(decode=False))
    names = [f"row {index} of {text}" for index in range(len(table))]
    return Table(text, *_table_labels(table, names), names, files)


def _table_labels(table: Any, names: Sequence[str]) -> tuple[tuple[str, ...], Integers]:
    features = table.features
    class_names = {name: feature.names for name, feature in features.items() if hasattr(feature, "names")}
    plain = [name for name in LABEL_NAMES if _is_whole_or_word(getattr(features.get(name), "dtype", ""))]
    column = next(iter([*class_names, *plain]), None)
    labels = table[column][:] if column else [None] * len(table)
    classes, targets = numbered(["" if one in (None, -1) else str(one) for one in labels], names.__getitem__)
    return tuple(class_names.get(column, classes)) if classes else (), targets


def _is_whole_or_word(kind: str) -> bool:
    return "int" in kind or "string" in kind
