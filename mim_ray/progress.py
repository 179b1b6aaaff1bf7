"""How long work shows itself: one live line on a terminal, plain lines now and then in a log."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

LOG_EVERY_SECONDS = 10.0


@contextmanager
def progress(what: str, total: int, unit: str) -> Iterator[Callable[[int], None]]:
    """Yields `advance(count)`. Everything goes to stderr, so that stdout stays for results."""
    if sys.stderr.isatty():
        rate = TextColumn("{task.fields[rate]}")
        columns = TextColumn(what), BarColumn(), MofNCompleteColumn(), rate, TimeRemainingColumn()
        with Progress(*columns, console=Console(stderr=True)) as bar:
            task = bar.add_task(what, total=total, rate="")
            began = time.monotonic()

            def advance(count: int) -> None:
                done = bar.tasks[0].completed + count
                bar.update(task, advance=count, rate=f"{_short(_rate(done, began))} {unit}/s")

            yield advance
        return
    lines = _Lines(what, total, unit)
    yield lines.advance
    lines.end()


class _Lines:
    def __init__(self, what: str, total: int, unit: str) -> None:
        self._what, self._total, self._unit = what, total, unit
        self._done, self._began, self._said = 0, time.monotonic(), time.monotonic()
        self._said_of = -1

    def advance(self, count: int) -> None:
        self._done += count
        if time.monotonic() - self._said > LOG_EVERY_SECONDS:
            self.say()

    def say(self) -> None:
        rate = _rate(self._done, self._began)
        left = (self._total - self._done) / rate if rate else 0
        line = f"{self._what}: {self._done:,}/{self._total:,} {self._unit}, {_short(rate)}/s, {left:.0f} s left"
        print(line, file=sys.stderr, flush=True)
        self._said, self._said_of = time.monotonic(), self._done

    def end(self) -> None:
        if self._said_of != self._done:
            self.say()


def _rate(done: float, began: float) -> float:
    return done / max(time.monotonic() - began, 1e-9)


def _short(rate: float) -> str:
    return f"{rate:,.0f}" if rate >= 10 else f"{rate:.2g}"
