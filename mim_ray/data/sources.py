"""Where pictures come from: folders, lists, tar shards, Hugging Face sets and samples, each one a Source."""

import csv
import importlib
import json
import os
import re
import tarfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from PIL.Image import Image

from mim_ray.errors import Failure, Mistake, nearest

Integers = npt.NDArray[np.int64]
Picture = bytes | npt.NDArray[Any] | Image
FORMS = "a folder of images, a .txt, .csv or .tsv list, .tar shards, hf:NAME or sample:NAME"
IMAGES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm")
TARS = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")
NO_SAMPLE = re.compile(r"|#.*|(path|image)([,\t ]label)?", re.IGNORECASE)  # a line of a list
LABEL_COLUMNS = ("label", "labels", "fine_label", "coarse_label", "target", "class", "cls")


class Source(Protocol):  # small to pickle and without open files: spawned processes get one each
    origin: str  # what the user wrote
    classes: tuple[str, ...]  # names of the classes of fields[0]; () when unlabelled
    fields: tuple[str, ...]  # names of the label columns

    def __len__(self) -> int: ...
    def name(self, index: int) -> str: ...  # what to call this sample in a message
    def labels(self) -> Integers: ...  # (len, len(fields))
    def image(self, index: int) -> Picture: ...  # an encoded file, an HxW or HxWx3 array, or a PIL image


def open_source(text: str, *, split: str = "train") -> Source:
    """The Source that `text` names; `split` chooses among the parts of a Hugging Face or sample set."""
    scheme, _, rest = text.partition(":")
    if scheme == "sample":
        from mim_ray.data.samples import open_sample  # here, because samples are Sources and import this

        return open_sample(text, rest, split)
    if scheme == "hf":
        return _open_table(text, _load_hub, rest, split)
    path = Path(text).expanduser().absolute()
    if text and path.is_dir():
        return _open_folder(text, path, split)
    if path.name.endswith(TARS) and (tars := _matching(path)):
        return _open_shards(text, tars)
    if path.suffix in (".txt", ".csv", ".tsv") and path.is_file():
        return _open_list(text, path)
    near = get_close_matches(path.name, {beside.name for beside in path.parent.glob("*")} - {path.name}, n=1)
    raise Mistake(f"cannot import from {text!r}{nearest(path.name, near)} (expected {FORMS})")


def needed(package: str) -> Any:
    """A package that only some sources use, imported when they do."""
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise Failure(f"{package} is not installed: pip install 'mim_ray[sources]'") from error


@dataclass(eq=False)
class Labelled:
    """What most sources share: a name for each sample, and one column of labels or none."""

    origin: str
    classes: tuple[str, ...]
    targets: Integers
    names: Sequence[str]
    fields: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        self.fields = ("label",) * self.targets.shape[1]

    def __len__(self) -> int:
        return len(self.targets)

    def name(self, index: int) -> str:
        return self.names[index]

    def labels(self) -> Integers:
        return self.targets


def _numbered(labels: Sequence[str], describe: Callable[[int], str]) -> tuple[tuple[str, ...], Integers]:
    """Classes and column of labels that are all numbers, all words, or all empty."""
    words = sorted(set(labels))
    if words == [""]:
        return (), np.zeros((len(labels), 0), np.int64)
    if "" in words:
        raise Mistake(f"{describe(labels.index(''))} has no label but others have: label all of them or none")
    number = {word: index for index, word in enumerate(words)}
    if all(re.fullmatch(r"\d{1,6}", word) for word in words):
        number = {word: int(word) for word in words}
        words = [str(index) for index in range(max(number.values()) + 1)]
    return tuple(words), np.array([[number[label]] for label in labels])


@dataclass(eq=False)
class Files(Labelled):
    root: Path

    def image(self, index: int) -> bytes:
        return (self.root / self.names[index]).read_bytes()


def _open_folder(text: str, root: Path, split: str) -> Source:
    folders, files = _listing(root)
    if "dataset_dict.json" in files or {"dataset_info.json", "state.json"} <= set(files):
        return _open_table(text, needed("datasets").load_from_disk, str(root), split)
    if files and not folders and all(file.endswith(TARS) for file in files):
        return _open_shards(text, [root / file for file in files])
    flat = [file for file in files if file.lower().endswith(IMAGES)]
    classes = {folder: list(_images_below(root, folder)) for folder in folders}
    paths = [path for images in classes.values() for path in images]
    if flat and paths:
        raise Mistake(f"{text} holds images beside its folders ({flat[0]}) and inside ({paths[0]}): keep one")
    if flat:
        return Files(text, (), np.zeros((len(flat), 0), np.int64), flat, root)
    if not paths:
        raise Mistake(f"no image in {text}: expected files ending in {' '.join(IMAGES)}")
    if empty := [folder for folder, images in classes.items() if not images]:
        raise Mistake(f"class folder {empty[0]!r} in {text} holds no image: add images or remove it")
    targets = np.repeat(np.arange(len(classes)), [len(images) for images in classes.values()])
    return Files(text, tuple(classes), targets[:, None], paths, root)


def _listing(folder: Path) -> tuple[list[str], list[str]]:
    """Names of the folders and of the files in a folder, sorted, hidden ones left out."""
    try:
        with os.scandir(folder) as entries:
            seen = sorted((entry.name, entry.is_dir()) for entry in entries if entry.name[0] != ".")
    except OSError as error:
        raise Failure(f"cannot read folder {folder}: {error.strerror}") from error
    return [name for name, is_dir in seen if is_dir], [name for name, is_dir in seen if not is_dir]


def _images_below(root: Path, inside: str) -> Iterator[str]:
    """Images at any depth, relative to `root`."""
    folders, files = _listing(root / inside)
    yield from (f"{inside}/{file}" for file in files if file.lower().endswith(IMAGES))
    for folder in folders:
        yield from _images_below(root, f"{inside}/{folder}")


def _open_list(text: str, file: Path) -> Files:
    with file.open(encoding="utf-8-sig", errors="surrogateescape") as lines:
        numbered = [(number, line.strip()) for number, line in enumerate(lines, start=1)]
    rows = [(number, *_cells(line, file)) for number, line in numbered if not NO_SAMPLE.fullmatch(line)]
    if not rows:
        raise Mistake(f"{text} lists no image: write one path, or path,label, per line")
    numbers, paths, labels = zip(*rows, strict=True)
    classes, targets = _numbered(labels, lambda index: f"line {numbers[index]} of {text}")
    return Files(text, classes, targets, paths, file.parent)


def _cells(line: str, file: Path) -> tuple[str, str]:
    """The path and the label, or "", in a line."""
    path, _, last = line.rpartition(" ")
    if file.suffix == ".txt" and path and last.isdecimal() and "\t" not in line:
        return path.strip(), last
    cells = next(csv.reader([line], delimiter="\t" if "\t" in line else ","))
    if len(cells) > 2:
        raise Mistake(f"too many columns in {file.name}: expected path,label, got {line!r}")
    return cells[0].strip(), "".join(cells[1:]).strip()


@dataclass(eq=False)
class Shards(Labelled):
    tars: Sequence[Path]
    spans: Integers  # which tar, first byte, size

    def image(self, index: int) -> bytes:
        tar, first, size = self.spans[index]
        return _read(self.tars[tar], first, size)


def _read(file: Path, first: int, size: int) -> bytes:
    with file.open("rb") as content:
        content.seek(first)
        return content.read(size)


def _matching(pattern: Path) -> list[Path]:
    """Files that match a glob in which {00..12} counts; what is counted need not exist."""
    counter = re.search(r"\{(\d+)\.\.(\d+)\}", pattern.name)
    if not counter:
        return [pattern] if pattern.is_file() else sorted(pattern.parent.glob(pattern.name))
    first, last = counter.groups()
    counts = [f"{count:0{len(first)}}" for count in range(int(first), int(last) + 1)]
    counted = [pattern.with_name(pattern.name.replace(counter[0], count, 1)) for count in counts]
    return [tar for one in counted for tar in _matching(one) or [one]]


def _open_shards(text: str, tars: Sequence[Path]) -> Shards:
    if packed := [tar for tar in tars if tar.suffix != ".tar"]:
        raise Mistake(f"{packed[0]} is compressed: random access needs an uncompressed tar")
    images = [(number, *image) for number, tar in enumerate(tars) for image in _images_in(tar)]
    if not images:
        raise Mistake(f"no image in {text}: expected members such as 0001.jpg and 0001.cls")
    numbers, names, firsts, sizes, labels = zip(*images, strict=True)
    classes, targets = _numbered(labels, names.__getitem__)
    return Shards(text, classes, targets, names, tars, np.array([numbers, firsts, sizes]).T)


def _images_in(path: Path) -> list[tuple[str, int, int, str]]:
    """Name, first byte, size, and label or "", of each image in a tar."""
    spans: dict[str, tuple[int, int]] = {}
    labels: dict[str, str] = {}
    try:
        with tarfile.open(path, "r:") as tar:
            files = (entry for entry in tar if entry.isreg() and not Path(entry.name).name.startswith("."))
            for member in files:
                key = re.sub(r"\.[^/]*$", "", member.name)
                extension = member.name[len(key) :].lower()
                if extension.endswith(IMAGES):
                    spans.setdefault(key, (member.offset_data, member.size))
                elif extension in (".cls", ".cls.txt", ".json"):
                    note = _read(path, member.offset_data, member.size)
                    label = json.loads(note).get("label") if note.startswith(b"{") else int(note)
                    if isinstance(label, int):
                        labels[key] = str(label)
            if _read(path, tar.offset, tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
                raise tarfile.ReadError("its end is missing")
    except (OSError, ValueError, tarfile.TarError) as error:
        raise Failure(f"cannot read {path}: {error}") from error
    return [(f"{path.name}/{key}", *span, labels.get(key, "")) for key, span in spans.items()]


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
    classes, targets = _numbered(["" if n in (None, -1) else str(n) for n in numbers], names.__getitem__)
    return tuple(class_names.get(column, classes)) if classes else (), targets
