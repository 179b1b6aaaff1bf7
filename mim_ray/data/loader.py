"""From a beton to batches on the device: the one loader of the project."""

import logging
import os
import threading
import warnings
import weakref
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Literal, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor

from mim_ray.data import native
from mim_ray.data.beton import Beton
from mim_ray.data.card import SetCard
from mim_ray.data.memory import available_bytes, in_words
from mim_ray.data.order import SEEDS, Order, require_whole
from mim_ray.data.place import local_beton
from mim_ray.data.plain import PlainDecoder
from mim_ray.data.stream import Buffers, Decoder, Making, Request, Stream
from mim_ray.data.subset import Int64s, Subset, choose
from mim_ray.errors import Failure, Mistake, nearest
from mim_ray.transforms.crop import CenterCrop, RandomCrop

logger = logging.getLogger("mim_ray.data")
Backend = Literal["auto", "ffcv", "torch"]


class Batch(NamedTuple):
    """One rank's part of a global batch, on the device."""

    step: int
    crops: tuple[Tensor, ...]
    """One tensor per view: (images, 3, height, width) uint8, channels last in memory."""
    labels: Tensor | None
    samples: Tensor
    """Which sample of the beton each image is."""
    position: Tensor
    """Where in the endless stream of samples each image stands: with the seed, the key of every draw."""


class Loader:
    """Batches of a beton (a path, a URL, or a sample: set): functions of (seed, step, rank, world) alone.

    `batches(start, stop)` yields the steps asked for, across epochs, from any step on. Give
    `samples_per_epoch` for virtual epochs, `shuffle=False, keep_tail=True` and a `CenterCrop` for evaluation,
    a `subset` for some of the samples, drawn by the seed; "all" makes its epochs as long as those of the set.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        batch: int,
        crop: RandomCrop | CenterCrop | None = None,
        views: int = 1,
        seed: int = 0,
        rank: int = 0,
        world: int = 1,
        samples_per_epoch: int | Literal["all"] | None = None,
        shuffle: bool = True,
        keep_tail: bool = False,
        label: str | None = "auto",
        device: str | torch.device = "cpu",
        backend: Backend = "auto",
        threads: int | None = None,
        ahead: int = 3,
        stall_seconds: float = 120.0,
        stage: Literal["auto", "always", "never"] = "auto",
        subset: Subset | None = None,
    ) -> None:
        self.threads = spare_cores() if threads is None else threads
        numbers = {"batch": batch, "views": views, "world": world, "threads": self.threads, "ahead": ahead}
        if samples_per_epoch is not None and samples_per_epoch != "all":
            numbers["samples_per_epoch"] = samples_per_epoch
        for name, value in numbers.items():
            require_whole(name, value, 1)
        require_whole("rank", rank, 0, world)
        require_whole("seed", seed, 0, SEEDS)
        if not isinstance(crop, RandomCrop | CenterCrop | None):
            raise Mistake(
                f"crop={crop!r}: expected a RandomCrop or a CenterCrop, as in RandomCrop(size=(224, 224))"
            )
        if not 0 < stall_seconds <= threading.TIMEOUT_MAX:
            raise Mistake(f"stall_seconds={stall_seconds}: expected more than 0, and an end, such as 120")
        if batch < world and not keep_tail:
            raise Mistake(
                f"batch={batch}: leaves some of {world} ranks without an image: raise it to {world} or more"
            )
        self.device, self.backend = usable_device(device), chosen_backend(backend)
        self.beton = Beton.open(local_beton(path, stage))
        self._file = self.beton.path.open("rb", buffering=0)  # kept open: a cache may evict it between two epochs
        weakref.finalize(self, self._file.close)
        self._labels = self._label_column(label)
        self._chosen = drawn(self.beton, self._labels, subset or Subset(), seed)
        size = len(self.beton) if self._chosen is None else len(self._chosen)
        epoch = len(self.beton) if samples_per_epoch == "all" else samples_per_epoch
        self.order = Order(size, batch, seed, epoch, shuffle, keep_tail)
        self.crop = crop or RandomCrop()
        self.views, self.seed, self.rank, self.world = views, seed, rank, world
        self.ahead, self.stall_seconds = ahead, stall_seconds
        share = self.order.largest_share(world)
        shape = (views, share, *self.crop.size, 3)
        self._refuse_what_does_not_fit(shape)
        self._buffers = Buffers(shape, pinned=self.device.type == "cuda")
        self.waited_seconds = 0.0

    @property
    def steps_per_epoch(self) -> int:
        return self.order.steps_per_epoch

    def share(self, step: int, rank: int = 0, world: int = 1) -> tuple[Int64s, Int64s]:
        """(positions in the stream, samples of the beton) of one rank at a step; by default of the whole batch."""
        positions, samples = self.order.share(step, rank, world)
        return positions, samples if self._chosen is None else self._chosen[samples]

    def epoch(self, number: int = 0) -> Iterator[Batch]:
        require_whole("epoch", number, 0)
        first = number * self.steps_per_epoch
        return self.batches(first, first + self.steps_per_epoch)

    def batches(self, start: int = 0, stop: int | None = None) -> Iterator[Batch]:
        """The steps from `start` up to `stop` (without end by default). Leaving early frees everything."""
        require_whole("start", start, 0)
        if stop is not None:
            require_whole("stop", stop, 0)
        return self._batches(start, stop)

    def _batches(self, start: int, stop: int | None) -> Iterator[Batch]:
        in_flight: list[tuple[torch.cuda.Event, Making]] = []
        try:
            with self._stream(start, stop) as stream:
                for making in stream:
                    self.waited_seconds = stream.waited_seconds
                    yield self._on_device(making, in_flight)
            for event, _ in in_flight:  # or the next epoch would fill buffers that are still being copied
                event.synchronize()
        except BaseException:  # left early, or failed
            self._buffers.let_go()
            raise

    def _stream(self, start: int, stop: int | None) -> Stream:
        return Stream(
            self._requests(start, stop),
            self._decoder,
            self._buffers,
            threads=self.threads,
            ahead=self.ahead,
            stall_seconds=self.stall_seconds,
            what=str(self.beton.path),
        )

    def _requests(self, start: int, stop: int | None) -> Iterator[Request]:
        step = start
        while stop is None or step < stop:
            positions, samples = self.share(step, self.rank, self.world)
            height, width = self.beton.height[samples], self.beton.width[samples]
            windows = [self.crop.windows(self.seed, view, positions, height, width) for view in range(self.views)]
            yield Request(step, positions, samples, np.stack(windows))
            step += 1

    def _on_device(self, making: Making, in_flight: "list[tuple[torch.cuda.Event, Making]]") -> Batch:
        request = making.request
        crops = torch.from_numpy(making.pixels).permute(0, 1, 4, 2, 3)
        labels = None if self._labels is None else torch.from_numpy(self._labels[request.samples])
        samples, position = torch.from_numpy(request.samples), torch.from_numpy(request.positions)
        if self.device.type != "cpu":
            crops, samples, position = (t.to(self.device, non_blocking=True) for t in (crops, samples, position))
            labels = None if labels is None else labels.to(self.device, non_blocking=True)
            # A pinned buffer may be filled again only when its copy has left the host.
            in_flight[:] = [(event, made) for event, made in in_flight if not event.query()]
            in_flight.append((torch.cuda.current_stream(self.device).record_event(), making))
        return Batch(request.step, tuple(crops), labels, samples, position)

    def _decoder(self) -> Decoder:
        kind = native.NativeDecoder if self.backend == "ffcv" else PlainDecoder
        return kind(self.beton, self._file.fileno())

    def _label_column(self, label: str | None) -> "np.ndarray[tuple[int], np.dtype[np.int64]] | None":
        columns = self.beton.labels
        if label == "auto":
            label = next(iter(columns), None)
        if label is None:
            return None
        if label not in columns:
            near = nearest(str(label), columns)
            raise Mistake(f"label={label!r}: {self.beton.path} has none of that name{near}")
        return cast("np.ndarray[tuple[int], np.dtype[np.int64]]", columns[label])

    def _refuse_what_does_not_fit(self, shape: tuple[int, ...]) -> None:
        b = self.beton
        largest = int(np.argmax(b.width.astype(np.int64) * b.height))
        scratch = b.largest_picture_bytes + int(b.size.max())
        batch_bytes = int(np.prod(shape, dtype=np.int64))
        if self.device.type == "cuda":  # PyTorch takes pinned memory in powers of two
            batch_bytes = 1 << (batch_bytes - 1).bit_length()
        # One batch is with the consumer, one on its way there, `ahead` in the making.
        total = (self.ahead + 2) * batch_bytes + self.threads * scratch
        room = available_bytes()
        if total > room:
            raise Mistake(
                f"the loader would hold {in_words(total)} and {in_words(room)} is free: "
                f"{self.ahead} + 2 batches of {' × '.join(map(str, shape))} bytes, "
                f"which take {in_words(batch_bytes)} each, and {self.threads} threads × "
                f"{in_words(scratch)} for {b.width[largest]} × {b.height[largest]} pixels ({b.name(largest)}): "
                f"lower batch=, ahead= or threads=, or import with max_resolution="
            )


def drawn(beton: Beton, labels: Int64s | None, subset: Subset, seed: int) -> Int64s | None:
    """Which samples there are, where not all are wanted: the same ones for a seed, whatever the workers."""
    if subset == Subset():
        return None
    names = tuple(map(str, range(0 if labels is None else int(labels.max()) + 1)))
    with suppress(Mistake, Failure):  # or nobody has written down what they are called
        names = SetCard.read(beton.path).classes
    return choose(subset, labels, names, len(beton), seed).chosen


def chosen_backend(backend: Backend) -> Literal["ffcv", "torch"]:
    """`auto` takes FFCV where it works and says so where it does not."""
    if backend == "torch":
        return "torch"
    if backend not in ("auto", "ffcv"):
        raise Mistake(
            f"backend={backend!r}: expected auto, ffcv or torch{nearest(backend, ['auto', 'ffcv', 'torch'])}"
        )
    reason = native.missing()
    if reason is None:
        return "ffcv"
    if backend == "ffcv":
        raise Mistake(f"backend=ffcv: {reason}: install it with make setup, or take backend=torch")
    warnings.warn(f"loading with backend=torch, several times slower than FFCV, because {reason}", stacklevel=3)
    return "torch"


def usable_device(device: str | torch.device) -> torch.device:
    try:
        chosen = torch.device(device)
    except (RuntimeError, TypeError):
        raise Mistake(f"device={device!r}: expected cpu, cuda, or one GPU of several, such as cuda:1") from None
    count = torch.cuda.device_count() if chosen.type == "cuda" else 0
    if chosen.type == "cuda" and (chosen.index or 0) >= count:
        usable = f"cuda:0 to cuda:{count - 1}" if count else "cpu, or cuda where there is a GPU and its driver"
        raise Mistake(f"device={str(device)!r}: PyTorch finds {count} GPUs here: expected {usable}")
    return chosen


def spare_cores() -> int:
    """All cores this process may use but one, which is the step's."""
    return max(1, len(os.sched_getaffinity(0)) - 1)
