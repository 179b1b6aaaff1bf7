"""WebDataset tars as a source: indexed once, then read at random."""

import json
import re
import tarfile
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mim_ray.data.source import IMAGES, LABEL_NAMES, Integers, Labelled, numbered
from mim_ray.errors import Failure, Mistake

TARS = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")


@dataclass(eq=False)
class Shards(Labelled):
    tars: Sequence[Path]
    spans: Integers  # which tar, first byte, size

    def image(self, index: int) -> bytes:
        tar, first, size = self.spans[index]
        return _read(self.tars[tar], first, size)


def open_shards(text: str, tars: Sequence[Path]) -> Shards:
    if packed := [tar for tar in tars if tar.suffix != ".tar"]:
        raise Mistake(f"{packed[0]} is compressed: random access needs an uncompressed tar")
    images = [(number, *image) for number, tar in enumerate(tars) for image in _images_in(tar)]
    if not images:
        raise Mistake(f"no image in {text}: expected members such as 0001.jpg and 0001.cls")
    numbers, names, firsts, sizes, labels = zip(*images, strict=True)
    classes, targets = numbered([label or "" for label in labels], names.__getitem__)
    if not classes and "" in labels:
        looked_for = ", ".join(LABEL_NAMES)
        warnings.warn(f"{text}: imported without labels: its .json files hold none of {looked_for}", stacklevel=3)
    return Shards(text, classes, targets, names, tars, np.array([numbers, firsts, sizes]).T)


def _images_in(path: Path) -> list[tuple[str, int, int, str | None]]:
    """Name, first byte, size and label of each image in a tar; "": what lies beside it holds no label."""
    pictures: dict[str, tarfile.TarInfo] = {}
    labels: dict[str, str] = {}
    try:
        with tarfile.open(path, "r:") as tar:
            files = (entry for entry in tar if entry.isreg() and not Path(entry.name).name.startswith("."))
            for member in files:
                key = re.sub(r"\.[^/]*$", "", member.name)
                extension = member.name[len(key) :].lower()
                if extension.endswith(IMAGES):
                    if key in pictures:
                        raise Mistake(
                            f"{path}: two pictures have the key {key}, {pictures[key].name} and {member.name}: "
                            "write a tar with one picture for each key"
                        )
                    pictures[key] = member
                elif extension in (".cls", ".cls.txt"):
                    labels[key] = _read(path, member.offset_data, member.size).decode().strip()
                elif extension == ".json":
                    described = json.loads(_read(path, member.offset_data, member.size))
                    labels[key] = labels.get(key) or _label_in(described)
            if _read(path, tar.offset, tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
                raise tarfile.ReadError("its end is missing")
    except Mistake:
        raise
    except (OSError, ValueError, tarfile.TarError) as error:
        raise Failure(f"cannot read {path}: {error}") from error
    return [(f"{path.name}/{key}", at.offset_data, at.size, labels.get(key)) for key, at in pictures.items()]


def _label_in(described: Any) -> str:
    """The first word or whole number under one of the names for a label, or ""."""
    found = [described.get(name) for name in LABEL_NAMES] if isinstance(described, dict) else [described]
    words = (str(one).strip() for one in found if isinstance(one, int | str))
    return next(filter(None, words), "")


def matching_files(pattern: Path) -> list[Path]:
    """Files that match a glob in which {00..12} counts; what is counted need not exist."""
    counter = re.search(r"\{(\d+)\.\.(\d+)\}", pattern.name)
    if not counter:
        return [pattern] if pattern.is_file() else sorted(pattern.parent.glob(pattern.name))
    first, last = counter.groups()
    counts = [f"{count:0{len(first)}}" for count in range(int(first), int(last) + 1)]
    counted = [pattern.with_name(pattern.name.replace(counter[0], count, 1)) for count in counts]
    return [tar for one in counted for tar in matching_files(one) or [one]]


def _read(file: Path, first: int, size: int) -> bytes:
    with file.open("rb") as content:
        content.seek(first)
        return content.read(size)
