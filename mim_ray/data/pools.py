"""Processes: those that work on one thing together, and the files of those that were killed."""

import glob
import multiprocessing
import os
import platform
import signal
import sys
import traceback
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from itertools import cycle
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

CHUNK = 16
AHEAD = 4
"""Chunks a process has before it, so that it never waits for the one that writes."""
Result = TypeVar("Result")
Results = Iterator[tuple[int, Result]]


class Killed(Exception):
    """One of the processes is gone."""


@contextmanager
def spread(work: Callable[[int], Result], workers: int) -> Iterator[Callable[[list[int]], Results[Result]]]:
    """A function from indices to the work's results in the same order, computed here or by other processes."""
    if workers == 1:
        yield lambda indices: ((index, work(index)) for index in indices)
        return
    with ExitStack() as started:
        helpers: list[_Helper] = []

        def helper(number: int) -> _Helper:
            if number == len(helpers):
                helpers.append(started.enter_context(_helping(work)))
            return helpers[number]

        yield partial(_in_turn, helper, workers)


def _in_turn(helper: "Callable[[int], _Helper]", workers: int, indices: list[int]) -> Results[Any]:
    asked: deque[tuple[list[int], _Helper]] = deque()
    turns = cycle(range(workers))
    for at in range(0, len(indices), CHUNK):
        chunk, whose = indices[at : at + CHUNK], helper(next(turns))
        whose.ask(chunk)
        asked.append((chunk, whose))
        if len(asked) >= AHEAD * workers:
            yield from _answered(asked)
    while asked:
        yield from _answered(asked)


def _answered(asked: "deque[tuple[list[int], _Helper]]") -> Results[Any]:
    chunk, whose = asked.popleft()
    yield from zip(chunk, whose.answer(), strict=True)


class _Helper:
    """Another process, at the end of a pipe of its own: one that is killed breaks its pipe and holds no lock."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe

    def ask(self, chunk: list[int]) -> None:
        with _gone_in_words():
            self._pipe.send(chunk)

    def answer(self) -> list[Any]:
        with _gone_in_words():
            found: list[Any] | Exception = self._pipe.recv()
        if isinstance(found, Exception):
            raise found
        return found


@contextmanager
def _gone_in_words() -> Iterator[None]:
    try:
        yield
    except (EOFError, OSError):  # between two answers, or within one
        raise Killed from None


@contextmanager
def _helping(work: Callable[[int], Any]) -> Iterator[_Helper]:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_help, args=(work, theirs), daemon=True)
    with _stops_kept_from_children():  # Python's own, whose start would let the stops through again
        resource_tracker.ensure_running()
    with _stops_kept_from_children(), _main_module_kept_from_children():
        process.start()
    theirs.close()
    try:
        yield _Helper(ours)
    finally:
        ours.close()
        process.kill()
        process.join()


def _help(work: Callable[[int], Any], pipe: Connection) -> None:
    """In the other process: works through what it is asked, until the one who asks is gone."""
    with suppress(EOFError, ConnectionError):
        while True:
            chunk = pipe.recv()
            pipe.send(_worked_through(work, chunk))


def _worked_through(work: Callable[[int], Any], chunk: list[int]) -> list[Any] | Exception:
    try:
        return [work(index) for index in chunk]
    except Exception as error:
        error.add_note(traceback.format_exc())
        return error


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


def part_of(path: Path, process: int | str | None = None) -> Path:
    """Where a process (this one) writes what will be `path`; its host is named too, for disks are shared."""
    return path.with_name(f".{path.name}.{platform.node()}.{process or os.getpid()}.part")


def remove_parts_of_the_dead(path: Path) -> None:
    """What killed processes of this host left behind."""
    for part in path.parent.glob(f".{glob.escape(path.name)}.*.part"):
        process = part.name.split(".")[-2]
        if part == part_of(path, process) and not Path("/proc", process).exists():
            part.unlink(missing_ok=True)
