"""Where pictures come from: folders, lists, tar shards, Hugging Face sets and samples, each one a Source."""

import csv
import os
import re
from collections.abc import Iterator
from difflib import get_close_matches
from pathlib import Path

import numpy as np

from mim_ray.data.samples import open_sample
from mim_ray.data.shards import TARS, matching_files, open_shards
from mim_ray.data.source import IMAGES, Files, Source, numbered, refuse_split
from mim_ray.data.tables import open_hub_table, open_saved_table
from mim_ray.errors import Failure, Mistake, nearest

FORMS = "a folder of images, a .txt, .csv or .tsv list, .tar shards, hf:NAME or sample:NAME"
HEADER = re.compile(  # of the first column of a list: image, Path, file_name, img_path, ImageID, id …
    r"((image|img|picture|file)?[ _-]?(path|name|id)|image|img|picture|file)s?( label)?", re.IGNORECASE
)
PARTS = {"train", "val", "valid", "validation", "test"}


def open_source(text: str, *, split: str = "train") -> Source:
    """The Source that `text` names; `split` chooses among the parts of a Hugging Face or sample set."""
    scheme, _, rest = text.partition(":")
    if scheme == "sample":
        return open_sample(text, rest, split)
    if scheme == "hf":
        return open_hub_table(text, rest, split)
    path = Path(text).expanduser().absolute()
    if text and path.is_dir():
        return _open_folder(text, path, split)
    if path.name.endswith(TARS) and (tars := matching_files(path)):
        refuse_split(text, split)
        return open_shards(text, tars)
    if path.suffix in (".txt", ".csv", ".tsv") and path.is_file():
        refuse_split(text, split)
        return _open_list(text, path)
    near = get_close_matches(path.name, {beside.name for beside in path.parent.glob("*")} - {path.name}, n=1)
    raise Mistake(f"cannot import from {text!r}{nearest(path.name, near)} (expected {FORMS})")


def _open_folder(text: str, root: Path, split: str) -> Source:
    folders, files = _listing(root)
    if "dataset_dict.json" in files or {"dataset_info.json", "state.json"} <= set(files):
        return open_saved_table(text, root, split)
    if len(folders) > 1 and set(folders) <= PARTS:
        if split not in folders:
            raise Mistake(f"no split {split!r} in {text}{nearest(split, folders)}")
        return _open_folder(text, root / split, "train")
    refuse_split(text, split)
    if files and not folders and all(file.endswith(TARS) for file in files):
        return open_shards(text, [root / file for file in files])
    flat = [file for file in files if file.lower().endswith(IMAGES)]
    classes = {folder: list(_images_below(root, folder, (root.resolve(),))) for folder in folders}
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
            seen = sorted((entry.name, _is_folder(entry)) for entry in entries if entry.name[0] != ".")
    except OSError as error:
        raise Failure(f"cannot read folder {folder}: {error.strerror}") from error
    return [name for name, is_dir in seen if is_dir], [name for name, is_dir in seen if not is_dir]


def _is_folder(entry: os.DirEntry[str]) -> bool:
    return Path(entry).is_dir() if entry.is_symlink() else entry.is_dir()  # a link to itself is none


def _images_below(root: Path, inside: str, above: tuple[Path, ...]) -> Iterator[str]:
    """Images at any depth, relative to `root`; `above`: the folders that this one lies in."""
    real = (root / inside).resolve()
    if real in above:
        raise Mistake(f"{root / inside} is a link to {real}, which it lies in: remove the link")
    folders, files = _listing(root / inside)
    yield from (f"{inside}/{file}" for file in files if file.lower().endswith(IMAGES))
    for folder in folders:
        yield from _images_below(root, f"{inside}/{folder}", (*above, real))


def _open_list(text: str, file: Path) -> Files:
    with file.open(encoding="utf-8-sig", errors="surrogateescape") as lines:
        stripped = [(number, line.strip()) for number, line in enumerate(lines, start=1)]
    rows = [(number, *_cells(line, file)) for number, line in stripped if line and line[0] != "#"]
    if rows and HEADER.fullmatch(rows[0][1]) and not (file.parent / rows[0][1]).exists():
        del rows[0]
    if not rows:
        raise Mistake(f"{text} lists no image: write one path, or path,label, per line")
    numbers, paths, labels = zip(*rows, strict=True)
    classes, targets = numbered(labels, lambda index: f"line {numbers[index]} of {text}")
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
