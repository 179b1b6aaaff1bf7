"""Batches made ahead by threads of our own, so that an error, a stall or an early end is never a mystery.

A batch in the making is cut into small pieces on one queue; each thread owns a decoder and takes pieces. The
consumer waits for the oldest batch only, receives whatever error a thread met, and by closing the stream ends
the threads. Buffers are taken again as soon as nobody holds a tensor over them.
"""

import atexit
import logging
import math
import mmap
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from queue import SimpleQueue
from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from mim_ray.errors import Failure
from mim_ray.transforms.crop import Windows

logger = logging.getLogger("mim_ray.data")
PIECE = 8
LOOK_SECONDS = 1.0
Pixels = NDArray[np.uint8]


class Decoder(Protocol):
    def decode(self, samples: NDArray[np.int64], windows: Windows, out: Pixels) -> None: ...


class Request(NamedTuple):
    """What one batch shall hold. windows (views, images, 5)."""

    step: int
    positions: NDArray[np.int64]
    samples: NDArray[np.int64]
    windows: Windows


class Making:
    """A batch in the making: `left` pieces to go; `error` set by the first piece that fails."""

    def __init__(self, request: Request, pixels: Pixels) -> None:
        self.request, self.pixels = request, pixels
        self.pieces = [slice(at, at + PIECE) for at in range(0, len(request.samples), PIECE)]
        self.error: BaseException | None = None
        self._left = len(self.pieces)
        self._lock = threading.Lock()
        self.done = threading.Event()
        if not self.pieces:
            self.done.set()

    def make(self, piece: slice, decoder: Decoder) -> None:
        try:
            if self.error is None:
                request = self.request
                decoder.decode(request.samples[piece], request.windows[:, piece], self.pixels[:, piece])
        except BaseException as error:  # whatever it was, it is raised where the batch is awaited
            self.error = error
        with self._lock:
            self._left -= 1
            if not self._left:
                self.done.set()


class Stream:
    """An iterator of finished batches; leave its `with` and its threads end."""

    def __init__(
        self,
        requests: Iterator[Request],
        decoder: Callable[[], Decoder],
        buffers: "Buffers",
        *,
        threads: int,
        ahead: int,
        stall_seconds: float,
        what: str,
    ) -> None:
        self._requests, self._buffers, self._stall_seconds, self._what = requests, buffers, stall_seconds, what
        self._tasks: SimpleQueue[tuple[Making, slice] | None] = SimpleQueue()
        self._making: deque[Making] = deque()
        self._threads: list[threading.Thread] = []
        self.waited_seconds = 0.0
        self._closed = False
        atexit.register(self.close)  # a thread in native code must not outlive the interpreter
        try:
            for i in range(threads):
                arguments = self._tasks, decoder()
                thread = threading.Thread(target=_work, args=arguments, name=f"mim_ray-loader-{i}", daemon=True)
                thread.start()
                self._threads.append(thread)
            for _ in range(ahead):
                self._begin_next()
        except BaseException:
            self.close()
            raise

    def __iter__(self) -> "Stream":
        return self

    def __next__(self) -> Making:
        if not self._making:
            self.close()
            raise StopIteration
        oldest = self._making[0]
        self._wait_for(oldest)
        self._making.popleft()
        if oldest.error is not None:
            self.close()
            raise oldest.error
        self._begin_next()
        return oldest

    def close(self) -> None:
        """Ends the threads; returns when they are gone, or are stuck."""
        if self._closed:  # at the interpreter's end, perhaps: then not even `threading` is left to ask
            return
        self._closed = True
        self._abandon()
        if threading.current_thread() not in self._threads:  # in which the garbage collector may find us
            until = time.monotonic() + self._stall_seconds
            for thread in self._threads:
                thread.join(max(0.0, until - time.monotonic()))
        self._threads = []
        atexit.unregister(self.close)

    def __enter__(self) -> "Stream":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _wait_for(self, making: Making) -> None:
        began = time.monotonic()
        while not making.done.wait(LOOK_SECONDS):
            waited = time.monotonic() - began
            alive = sum(thread.is_alive() for thread in self._threads)
            if waited > self._stall_seconds or alive < len(self._threads):
                complaint = self._stalled(making, waited, alive)
                self._abandon()
                self._threads = []  # a stuck thread is never joined; it is a daemon and ends with the process
                raise Failure(complaint)
        self.waited_seconds += time.monotonic() - began

    def _begin_next(self) -> None:
        request = next(self._requests, None)
        if request is None:
            return
        making = Making(request, self._buffers.take(len(request.samples)))
        self._making.append(making)
        for piece in making.pieces:
            self._tasks.put((making, piece))

    def _abandon(self) -> None:
        for making in self._making:
            making.error = making.error or Failure("the stream was closed")
        self._making.clear()
        for _ in self._threads:
            self._tasks.put(None)

    def _stalled(self, making: Making, waited: float, alive: int) -> str:
        first, last = making.request.positions[[0, -1]]
        return (
            f"{self._what}: no batch for {waited:.0f} s at step {making.request.step} (positions "
            f"{first}–{last}), {alive} of {len(self._threads)} loader threads alive: is the storage reachable?"
        )


def _work(tasks: "SimpleQueue[tuple[Making, slice] | None]", decoder: Decoder) -> None:
    while (task := tasks.get()) is not None:
        making, piece = task
        making.make(piece, decoder)
        del task, making


class Buffers:
    """Pinned or plain memory for batches, used again once no tensor over it is alive."""

    def __init__(self, shape: tuple[int, ...], *, pinned: bool) -> None:
        self._shape, self._pinned = shape, pinned
        self._free: list[Pixels] = []
        self.made = 0

    def take(self, images: int) -> Pixels:
        """(views, images, height, width, 3). Give its tensors out freely: it returns by itself."""
        if self._free:
            whole = self._free.pop()
        else:
            whole = self._fresh()
            self.made += 1
        lease = whole[:, :images]
        weakref.finalize(lease, self._free.append, whole).atexit = False
        return lease

    def let_go(self) -> None:
        """Keeps nothing for a next time; what is still lent goes when its tensors do."""
        self._free = []

    def _fresh(self) -> Pixels:
        if self._pinned:
            pinned: Pixels = torch.empty(self._shape, dtype=torch.uint8, pin_memory=True).numpy()
            return pinned
        # Pages of its own, which go back to the system at once; from the heap they would fragment it.
        pages = mmap.mmap(-1, math.prod(self._shape), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        return np.frombuffer(pages, np.uint8).reshape(self._shape)
