"""From any source to a finished beton and its card: `mim-ray data import`."""

import errno
import hashlib
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, NonNegativeInt

from mim_ray.config import flatten
from mim_ray.data.beton import LARGEST_SIDE, Beton, BetonWriter
from mim_ray.data.card import Card
from mim_ray.data.pictures import Encoded, Unsound, encode
from mim_ray.data.source import Source
from mim_ray.data.subset import Choice, Subset, choose
from mim_ray.draws import Purpose, permutation
from mim_ray.errors import Failure, Mistake
from mim_ray.progress import progress

CHUNK = 16
Result = Encoded | str
"""An encoded picture, or why it cannot be used."""
EncodeAll = Callable[[list[int]], Iterator[tuple[int, Result]]]


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


def import_set(source: Source, out: Path, options: Import) -> Card:
    """Writes `out` and its card whole, or nothing."""
    if not out.parent.is_dir():
        raise Mistake(f"{out}: there is no folder {out.parent}")
    if out.is_dir():
        raise Mistake(f"{out} is a folder: name a file, such as {out / 'set.beton'}")
    labels = source.labels() if source.fields else np.zeros((len(source), 0), np.int64)
    choice = choose(options, labels[:, 0] if source.fields else None, source.classes, len(source), options.seed)
    size, tally = len(choice.chosen), _Tally()
    with (
        _failures_in_words(out),
        _encoder(source, options) as encode_all,
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


def _card(aside: Path, source: Source, options: Import, tally: _Tally) -> Card:
    beton = Beton.open(aside)
    first = beton.labels[source.fields[0]] if source.fields else np.zeros(0, np.int64)
    mean, mean_square = (tally.moments / tally.taken).T
    with aside.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return Card(
        source=_readable(source.origin),
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
def _failures_in_words(out: Path) -> Iterator[None]:
    try:
        yield
    except BrokenProcessPool:
        raise Failure(
            "an encoding process was killed (out of memory?): import again with fewer workers="
        ) from None
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise Failure(f"{out}: the disk is full; nothing was written: free some room, import again") from None
        raise Failure(f"{out} cannot be written: {error.strerror or error}") from None


@contextmanager
def _encoder(source: Source, options: Import) -> Iterator[EncodeAll]:
    """A function from indices to their results in the same order, computed here or by other processes."""
    workers = options.workers or len(os.sched_getaffinity(0))
    if workers == 1:
        yield lambda indices: ((index, _encode(source, options, index)) for index in indices)
        return
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, context, initializer=_start_process, initargs=(source, options))
    try:
        yield lambda indices: _in_parallel(pool, indices, in_flight=4 * workers)
    finally:
        pool.shutdown(cancel_futures=True)


def _in_parallel(pool: ProcessPoolExecutor, indices: list[int], in_flight: int) -> Iterator[tuple[int, Result]]:
    futures: deque[tuple[list[int], Future[list[Result]]]] = deque()
    for at in range(0, len(indices), CHUNK):
        chunk = indices[at : at + CHUNK]
        with _ctrl_c_kept_from_children():
            futures.append((chunk, pool.submit(_encode_chunk, chunk)))
        if len(futures) >= in_flight:
            yield from _finished(futures)
    while futures:
        yield from _finished(futures)


def _finished(futures: "deque[tuple[list[int], Future[list[Result]]]]") -> Iterator[tuple[int, Result]]:
    chunk, future = futures.popleft()
    yield from zip(chunk, future.result(), strict=True)


@contextmanager
def _ctrl_c_kept_from_children() -> Iterator[None]:
    """A process started in this block inherits that it is not told; the importing one is the one to stop."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


_here: tuple[Source, Import]
"""In an encoding process: what it encodes, sent once."""


def _start_process(source: Source, options: Import) -> None:
    global _here
    _here = source, options
    threading.Thread(target=_end_with_the_importer, daemon=True).start()


def _end_with_the_importer() -> None:
    """A killed importer cannot tell its pool, which would wait for work forever."""
    importer = multiprocessing.parent_process()
    if importer:
        importer.join()
        os._exit(1)


def _encode_chunk(indices: list[int]) -> list[Result]:
    return [_encode(*_here, index) for index in indices]


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
