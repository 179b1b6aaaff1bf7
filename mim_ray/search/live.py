"""How a search shows itself: one table on a terminal, a line for each look in a log."""

import sys
import time
from collections.abc import Mapping
from contextlib import ExitStack

from rich.console import Console
from rich.live import Live as RichLive
from rich.table import Table

from mim_ray.search.memory import Memory, Record
from mim_ray.search.plan import Search
from mim_ray.search.results import best_of, ranked

SHOWN = 24
"""Rows of the table: those that run, then the best."""


class Live:
    def __init__(self, search: Search, name: str, memory: Memory, most: int) -> None:
        self._search, self._name, self._memory, self._most = search, name, memory, most
        self._began, self._done_before = time.monotonic(), sum(not record.is_open for record in memory)
        self._shown = ExitStack()
        self._table: RichLive | None = None

    def __enter__(self) -> "Live":
        if sys.stderr.isatty():
            console = Console(stderr=True)
            self._table = self._shown.enter_context(
                RichLive(console=console, refresh_per_second=2, transient=True)
            )
        return self

    def __exit__(self, *_: object) -> None:
        self._shown.close()

    def tell(self, news: list[Record], progress: Mapping[int, Mapping[str, float]]) -> None:
        """`news`: the trials of which something was learnt; `progress`: how far the running ones are."""
        if self._table is not None:
            self._table.update(self._drawn(progress))
            return
        for record in {record.number: record for record in news}.values():
            print(self.line(record), file=sys.stderr, flush=True)

    def line(self, record: Record) -> str:
        words = " ".join(f"{path}={text}" for path, text in record.words.items())
        best = best_of(self._memory, self._search)
        found = ", ".join(
            f"{metric} {value:.4g}" for metric in self._search.metric if (value := record.last(metric)) is not None
        )
        parts = [f"epoch {record.epoch:.3g}", found or record.reason, self._state(record)]
        if best is not None:
            parts.append(f"best {best.last(self._search.metric[0]):.4g} of trial {best.number}")
        ended = sum(not one.is_open for one in self._memory)
        parts.append(f"{ended} of {self._most} ended{self._left()}")
        return f"{self._name}: trial {record.number} ({words}): " + ", ".join(part for part in parts if part)

    def _drawn(self, progress: Mapping[int, Mapping[str, float]]) -> Table:
        metrics = self._search.metric
        settings = list(dict.fromkeys(path for record in self._memory for path in record.words))
        short = [path.split(",")[0].rpartition("method.")[2] or path for path in settings]
        title = f"{self._name}: {sum(not one.is_open for one in self._memory)} of {self._most}{self._left()}"
        columns = ["trial", *short, "epoch", *metrics, "rung", "state", "left"]
        table = Table(*columns, box=None, title=title, title_justify="left")
        ended = ranked((record for record in self._memory if not record.is_open), self._search)
        records = [*(record for record in self._memory if record.is_open), *ended]
        for record in records[:SHOWN]:
            numbers = progress.get(record.number, {}) if record.is_open else {}
            table.add_row(
                str(record.number),
                *(record.words.get(path, "") for path in settings),
                f"{record.epoch:.3g}",
                *("" if (value := record.last(metric)) is None else f"{value:.4g}" for metric in metrics),
                str(self._rung(record)),
                self._state(record) + (f", {numbers['step'] / numbers['steps']:.0%}" if numbers else ""),
                f"{numbers['left'] / 60:.1f} min" if "left" in numbers else "",
            )
        return table

    def _rung(self, record: Record) -> int:
        looks = record.looks[-1]["look"] if record.looks else 0
        return sum(looks >= self._search.reduction**rung for rung in range(self._search.rungs))

    def _state(self, record: Record) -> str:
        seed = "" if record.of is None else f" (trial {record.of} with another seed)"
        return record.state + seed

    def _left(self) -> str:
        """From how long those took that ended since the search began or went on."""
        ended = sum(not record.is_open for record in self._memory)
        if ended == self._done_before:
            return ""
        seconds = (time.monotonic() - self._began) / (ended - self._done_before) * (self._most - ended)
        return f", about {seconds / 60:.0f} min left"
