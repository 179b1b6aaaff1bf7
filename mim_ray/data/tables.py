"""Hugging Face sets as a source."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mim_ray.data.source import Integers, Labelled, needed, numbered
from mim_ray.errors import Failure, Mistake, nearest

LABEL_COLUMNS = ("label", "labels", "fine_label", "coarse_label", "target", "class", "cls")


def open_hub_table(text: str, name: str, split: str) -> "Table":
    return _open_table(text, _load_hub, name, split)


def open_saved_table(text: str, folder: Path, split: str) -> "Table":
    return _open_table(text, needed("datasets").load_from_disk, str(folder), split)


@dataclass(eq=False)
class Table(Labelled):
    pictures: Any  # a datasets.Dataset of one column of files

    def image(self, index: int) -> bytes:
        (picture,) = self.pictures[index].values()
        return (picture["bytes"] or Path(picture["path"]).read_bytes()) if picture else b""


def _load_hub(name: str) -> Any:
    load = needed("datasets").load_dataset
    try:
        return load(name)
    except FileNotFoundError:
        return load(*name.rsplit("/", 1))


def _open_table(text: str, load: Callable[[str], Any], place: str, split: str) -> Table:
    try:
        loaded = load(place)
    except Exception as error:  # whatever the hub, the network or the disk raised
        raise Failure(f"cannot load {text}: {error}".splitlines()[0]) from error
    parts = loaded if isinstance(loaded, dict) else {split: loaded}
    if split not in parts:
        raise Mistake(f"no split {split!r} in {text}{nearest(split, parts)}")
    table = parts[split].with_format(None)
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
    integers = [name for name in LABEL_COLUMNS if "int" in getattr(features.get(name), "dtype", "")]
    column = next(iter([*class_names, *integers]), None)
    numbers = table[column][:] if column else [None] * len(table)
    classes, targets = numbered(["" if n in (None, -1) else str(n) for n in numbers], names.__getitem__)
    return tuple(class_names.get(column, classes)) if classes else (), targets
