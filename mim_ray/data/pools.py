"""Processes: those that work on one thing together, and the files of those that were killed."""

import glob
import multiprocessing
import os
import platform
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

CHUNK = 16
Result = TypeVar("Result")
Results = Iterator[tuple[int, Result]]


@contextmanager
def spread(work: Callable[[int], Result], workers: int) -> Iterator[Callable[[list[int]], Results[Result]]]:
    """A function from indices to the work's results in the same order, computed here or by other processes."""
    if workers == 1:
        yield lambda indices: ((index, work(index)) for index in indices)
        return
    context = multiprocessing.get_context("spawn")
    with _stops_kept_from_children():  # Python's own, which keeps track of the pool's locks
        pool = ProcessPoolExecutor(workers, context, initializer=_start_process, initargs=(work,))
    try:
        yield lambda indices: _in_parallel(pool, indices, in_flight=4 * workers)
    finally:
        pool.shutdown(cancel_futures=True)


def _in_parallel(pool: ProcessPoolExecutor, indices: list[int], in_flight: int) -> Results[Any]:
    futures: deque[tuple[list[int], Future[list[Any]]]] = deque()
    for at in range(0, len(indices), CHUNK):
        chunk = indices[at : at + CHUNK]
        with _stops_kept_from_children(), _main_module_kept_from_children():
            futures.append((chunk, pool.submit(_work_through, chunk)))
        if len(futures) >= in_flight:
            yield from _finished(futures)
    while futures:
        yield from _finished(futures)


def _finished(futures: deque[tuple[list[int], Future[list[Any]]]]) -> Results[Any]:
    chunk, future = futures.popleft()
    yield from zip(chunk, future.result(), strict=True)


@contextmanager
def _stops_kept_from_children() -> Iterator[None]:
    """A process started in this block inherits that it is not told; the one that started it is the one to stop."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGHUP})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def _main_module_kept_from_children() -> Iterator[None]:
    """A process started in this block does not run the user's script again to have its names."""
    script = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = script


_work: Callable[[int], Any]
"""In a started process: what it does, sent once."""


def _start_process(work: Callable[[int], Any]) -> None:
    global _work
    _work = work
    threading.Thread(target=_end_with_the_parent, daemon=True).start()


def _end_with_the_parent() -> None:
    """A killed process cannot tell its pool, which would wait for work forever."""
    parent = multiprocessing.parent_process()
    if parent:
        parent.join()
        os._exit(1)


def _work_through(chunk: list[int]) -> list[Any]:
    return [_work(index) for index in chunk]


def part_of(path: Path, process: int | str | None = None) -> Path:
    """Where a process (this one) writes what will be `path`; its host is named too, for disks are shared."""
    return path.with_name(f".{path.name}.{platform.node()}.{process or os.getpid()}.part")


def remove_parts_of_the_dead(path: Path) -> None:
    """What killed processes of this host left behind."""
    for part in path.parent.glob(f".{glob.escape(path.name)}.*.part"):
        process = part.name.split(".")[-2]
        if part == part_of(path, process) and not Path("/proc", process).exists():
            part.unlink(missing_ok=True)
