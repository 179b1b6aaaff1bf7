"""WebDataset tars as a source: indexed once, then read at random."""

import json
import re
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mim_ray.data.source import IMAGES, Integers, Labelled, numbered
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
    classes, targets = numbered(labels, names.__getitem__)
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
