"""What every source of pictures is: named, labelled or not, read at random by any process."""

import importlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from PIL.Image import Image

from mim_ray.errors import Failure, Mistake

Integers = npt.NDArray[np.int64]
Picture = bytes | npt.NDArray[Any] | Image
LABEL_NAMES = ("label", "labels", "fine_label", "coarse_label", "target", "class", "cls")
IMAGES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm")


class Source(Protocol):  # small to pickle and without open files: spawned processes get one each
    origin: str  # what the user wrote
    classes: tuple[str, ...]  # names of the classes of fields[0]; () when unlabelled
    fields: tuple[str, ...]  # names of the label columns
    licence: str | None  # of the pictures, in words; None: not known

    def __len__(self) -> int: ...
    def name(self, index: int) -> str: ...  # what to call this sample in a message
    def labels(self) -> Integers: ...  # (len, len(fields))
    def image(self, index: int) -> Picture: ...  # an encoded file, an HxW or HxWx3 array, or a PIL image


@dataclass(eq=False)
class Labelled:
    """What most sources share: a name for each sample, and one column of labels or none."""

    origin: str
    classes: tuple[str, ...]
    targets: Integers
    names: Sequence[str]
    fields: tuple[str, ...] = field(init=False)
    licence: str | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        self.fields = ("label",) * self.targets.shape[1]

    def __len__(self) -> int:
        return len(self.targets)

    def name(self, index: int) -> str:
        return self.names[index]

    def labels(self) -> Integers:
        return self.targets


@dataclass(eq=False)
class Files(Labelled):
    root: Path

    def image(self, index: int) -> bytes:
        return (self.root / self.names[index]).read_bytes()


def numbered(labels: Sequence[str], describe: Callable[[int], str]) -> tuple[tuple[str, ...], Integers]:
    """Classes and column of labels that are all numbers, all words, or all empty."""
    words = sorted(set(labels))
    if all(word.isdecimal() for word in words):
        words.sort(key=int)
    if words == [""]:
        return (), np.zeros((len(labels), 0), np.int64)
    if "" in words:
        raise Mistake(f"{describe(labels.index(''))} has no label but others have: label all of them or none")
    number = {word: index for index, word in enumerate(words)}
    if all(re.fullmatch(r"\d{1,6}", word) for word in words):
        number = {word: int(word) for word in words}
        words = [str(index) for index in range(max(number.values()) + 1)]
    return tuple(words), np.array([[number[label]] for label in labels])


def refuse_split(text: str, split: str) -> None:
    """For a source of one part: any split but the one that is meant when none is named."""
    if split != "train":
        raise Mistake(f"split={split}: {text} has no splits: leave split= out")


def needed(package: str) -> Any:
    """A package that only some sources use, imported when they do."""
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise Failure(f"{package} is not installed: pip install 'mim_ray[sources]'") from error
