"""From any source to a finished beton and its card: `mim-ray data import`."""

import errno
import hashlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Literal, NoReturn

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, NonNegativeInt

from mim_ray.config import flatten
from mim_ray.data.beton import HEADER, LARGEST_SIDE, VERSION, Beton, BetonWriter
from mim_ray.data.card import SetCard
from mim_ray.data.pictures import Encoded, Unsound, encode
from mim_ray.data.pools import Killed, Results, spread
from mim_ray.data.source import Source
from mim_ray.data.subset import Choice, Subset, choose
from mim_ray.draws import Purpose, permutation
from mim_ray.errors import Failure, Mistake
from mim_ray.progress import progress

Result = Encoded | str
"""An encoded picture, or why it cannot be used."""
EncodeAll = Callable[[list[int]], Results[Result]]


class Import(Subset):
    """The options of `mim-ray data import`."""

    max_resolution: int | None = Field(
        400, ge=1, le=LARGEST_SIDE, description="longest side stored; none: as it is"
    )
    quality: int = Field(90, ge=1, le=100, description="of JPEG, where a picture is encoded anew")
    format: Literal["jpeg", "raw"] = Field("jpeg", description="raw: faster to load, about ten times larger")
    keep: bool = Field(True, description="keep the original JPEG bytes of pictures already small enough")
    workers: NonNegativeInt = Field(0, description="processes; 0: one per core")
    seed: int = Field(0, ge=0, lt=1 << 63, description="of the subset and of the order on disk")
    split: str = Field("train", description="of sources that have several")
    strict: bool = Field(False, description="fail at the first picture that cannot be used")
    licence: str | None = Field(
        None,
        min_length=1,
        description="of the pictures, in words for the card; none: as the source says, if it does",
    )


def import_set(source: Source, out: Path, options: Import) -> SetCard:
    """Writes `out` and its card whole, or nothing."""
    if not out.parent.is_dir():
        raise Mistake(f"{out}: there is no folder {out.parent}")
    if out.is_dir():
        raise Mistake(f"{out} is a folder: name a file, such as {out / 'set.beton'}")
    _refuse_to_overwrite(out, source)
    workers = options.workers or len(os.sched_getaffinity(0))
    if workers > 1 and type(source).__module__ == "__main__":
        name = type(source).__name__
        raise Mistake(f"{name} is defined in the script itself: move it to a module, or import with workers=1")
    labels = source.labels() if source.fields else np.zeros((len(source), 0), np.int64)
    choice = choose(options, labels[:, 0] if source.fields else None, source.classes, len(source), options.seed)
    size, tally = len(choice.chosen), _Tally()
    with (
        _stopped_in_words(),
        _failures_in_words(out),
        spread(partial(_encode, source, options), workers) as encode_all,
        BetonWriter(out, source.fields, capacity=size) as writer,
        progress(f"import {out.name}", size, "images") as advance,
    ):
        for index, picture in _sound(choice, source, options, encode_all, tally):
            name = _readable(source.name(index))
            writer.add(picture.mode, picture.shape, labels[index].tolist(), picture.data, name)
            tally.take(picture)
            advance(1)
        if tally.taken < size and (choice.exact or not tally.taken):
            name, reason = tally.skipped[0]
            raise Failure(
                f"{source.origin}: {size} images asked for, {tally.taken} sound ones found ({name} {reason})"
            )
        writer.finish()
        card = _card(writer.aside, source, options, tally)
        card.write(out)  # before the beton has its name, so that no beton is left without a card
    return card


def _refuse_to_overwrite(out: Path, source: Source) -> None:
    """Anything but an older beton."""
    if Path(source.origin).expanduser().resolve() == out.resolve():
        raise Mistake(f"{out} is the source itself: name another file for the beton")
    if out.exists() and not _is_beton(out):
        raise Mistake(f"{out} exists and is not a beton: name another file, or remove it first")


def _is_beton(path: Path) -> bool:
    if not path.is_file():
        return False
    first = np.fromfile(path, HEADER, count=1)
    return len(first) == 1 and first["version"][0] == VERSION and first["fields"][0] > 0


def _sound(
    choice: Choice, source: Source, options: Import, encode_all: EncodeAll, tally: "_Tally"
) -> Iterator[tuple[int, Encoded]]:
    """The chosen images as they are written; where a number was asked for, unusable ones are replaced."""
    waiting = choice.chosen[permutation(len(choice.chosen), Purpose.WRITE, options.seed)].tolist()
    while waiting:
        spares = []
        for index, result in encode_all(waiting):
            if isinstance(result, Encoded):
                yield index, result
                continue
            name = _readable(source.name(index))
            if options.strict:
                raise Failure(f"{name} {result}: nothing was written (strict=true)")
            tally.skipped.append((name, result))
            spare = choice.spare_for(index)
            if spare is not None:
                spares.append(spare)
        waiting = spares


@dataclass
class _Tally:
    taken: int = 0
    kept: int = 0
    moments: NDArray[np.float64] = field(default_factory=lambda: np.zeros((3, 2)))
    skipped: list[tuple[str, str]] = field(default_factory=list)

    def take(self, picture: Encoded) -> None:
        self.taken += 1
        self.kept += picture.kept
        self.moments += picture.moments


def _card(aside: Path, source: Source, options: Import, tally: _Tally) -> SetCard:
    beton = Beton.open(aside)
    first = beton.labels[source.fields[0]] if source.fields else np.zeros(0, np.int64)
    mean, mean_square = (tally.moments / tally.taken).T
    with aside.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return SetCard(
        source=_readable(source.origin),
        licence=options.licence or source.licence,
        options=flatten(options),
        samples=len(beton),
        classes=tuple(map(_readable, source.classes)),
        class_counts=tuple(np.bincount(first, minlength=len(source.classes)).tolist()),
        label_fields=source.fields,
        width=_least_median_most(beton.width),
        height=_least_median_most(beton.height),
        mean=tuple(mean.round(6).tolist()),
        std=tuple(np.sqrt(mean_square - mean**2).round(6).tolist()),
        kept_originals=tally.kept,
        skipped=tuple(tally.skipped),
        bytes=aside.stat().st_size,
        checksum=str(beton.checksum),
        sha256=digest,
        mim_ray=version("mim_ray"),
    )


def _readable(name: str) -> str:
    """A file's name is bytes; those that are no UTF-8 are shown as they are escaped."""
    return name.encode(errors="surrogateescape").decode(errors="backslashreplace")


def _least_median_most(values: NDArray[np.uint16]) -> tuple[int, int, int]:
    return int(values.min()), int(np.median(values)), int(values.max())


@contextmanager
def _stopped_in_words() -> Iterator[None]:
    """SIGTERM and SIGHUP end an import as cleanly as Ctrl-C, unless the program has plans of its own for them."""
    here = threading.current_thread() is threading.main_thread()
    signals = [one for one in (signal.SIGTERM, signal.SIGHUP) if here and signal.getsignal(one) == signal.SIG_DFL]

    def stop(number: int, _: object) -> NoReturn:
        for one in signals:
            signal.signal(one, signal.SIG_IGN)  # the next one would interrupt the tidying
        raise SystemExit(128 + number)

    for one in signals:
        signal.signal(one, stop)
    try:
        yield
    except SystemExit:
        with suppress(OSError):  # of a terminal that is gone
            print("mim-ray: stopped", file=sys.stderr)
        raise
    finally:
        for one in signals:
            signal.signal(one, signal.SIG_DFL)


@contextmanager
def _failures_in_words(out: Path) -> Iterator[None]:
    try:
        yield
    except Killed:
        raise Failure(
            "an encoding process was killed (out of memory?): import again with fewer workers="
        ) from None
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise Failure(f"{out}: the disk is full; nothing was written: free some room, import again") from None
        raise Failure(f"{out} cannot be written: {error.strerror or error}") from None


def _encode(source: Source, options: Import, index: int) -> Result:
    try:
        return encode(
            source.image(index),
            max_resolution=options.max_resolution,
            quality=options.quality,
            raw_pixels=options.format == "raw",
            keep=options.keep,
        )
    except Unsound as problem:
        return str(problem)
    except OSError as error:
        return f"cannot be read: {error.strerror or error}"
