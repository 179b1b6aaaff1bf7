"""How long work shows itself: one live line on a terminal, plain lines now and then in a log."""

import logging
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol, TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

LOG_EVERY_SECONDS = 10.0


def quiet_logs() -> None:
    """Words for whoever sits before a command: a line each, above what is live at the time."""
    logging.basicConfig(format="%(message)s", level=logging.INFO, handlers=[_Stderr()])
    logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)  # every try; the last is told in words
    warnings.showwarning = lambda message, *_, **__: print(f"note: {message}", file=sys.stderr)


class _Stderr(logging.StreamHandler[TextIO]):
    """To what is stderr at the time, for live lines take its place."""

    def emit(self, record: logging.LogRecord) -> None:
        self.stream = sys.stderr
        super().emit(record)


class Advance(Protocol):
    def __call__(self, count: int, note: str = "") -> None: ...


@contextmanager
def progress(what: str, total: int, unit: str, done: int = 0) -> Iterator[Advance]:
    """Yields `advance(count, note)`. Everything goes to stderr, so that stdout stays for results."""
    if sys.stderr.isatty():
        rate, note = TextColumn("{task.fields[rate]}"), TextColumn("{task.fields[note]}")
        columns = TextColumn(what), BarColumn(), MofNCompleteColumn(), rate, TimeRemainingColumn(), note
        with Progress(*columns, console=Console(stderr=True)) as bar:
            task = bar.add_task(what, total=total, completed=done, rate="", note="")
            began = time.monotonic()

            def advance(count: int, note: str = "") -> None:
                made = bar.tasks[0].completed + count - done
                bar.update(task, advance=count, rate=f"{_short(_rate(made, began))} {unit}/s", note=note)

            yield advance
        return
    lines = _Lines(what, total, unit, done)
    yield lines.advance
    lines.end()


class _Lines:
    def __init__(self, what: str, total: int, unit: str, done: int) -> None:
        self._what, self._total, self._unit = what, total, unit
        self._first = self._done = done
        self._began, self._said = time.monotonic(), time.monotonic()
        self._said_of, self._note = -1, ""

    def advance(self, count: int, note: str = "") -> None:
        self._done += count
        self._note = note
        if time.monotonic() - self._said > LOG_EVERY_SECONDS:
            self.say()

    def say(self) -> None:
        rate = _rate(self._done - self._first, self._began)
        left = (self._total - self._done) / rate if rate > 0 else 0
        line = f"{self._what}: {self._done:,}/{self._total:,} {self._unit}, {_short(rate)}/s, {left:.0f} s left"
        print(line, *([self._note] if self._note else []), sep=", ", file=sys.stderr, flush=True)
        self._said, self._said_of = time.monotonic(), self._done

    def end(self) -> None:
        if self._said_of != self._done:
            self.say()


def _rate(done: float, began: float) -> float:
    return done / max(time.monotonic() - began, 1e-9)


def _short(rate: float) -> str:
    return f"{rate:,.0f}" if rate >= 10 else f"{rate:.2g}"
