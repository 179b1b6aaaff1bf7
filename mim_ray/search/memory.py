"""What is known of each trial, a small file for each: all that a search needs to go on from."""

import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from mim_ray.errors import Failure
from mim_ray.search.patience import patiently
from mim_ray.storage import Folder

TRIALS = "trials"
State = Literal["waiting", "running", "finished", "stopped", "failed", "lost"]
OPEN = ("waiting", "running")
Look = dict[str, float]
"""`look` (which of a trial's looks), `step`, `epoch`, and what was found."""


@dataclass
class Record:
    number: int
    draw: dict[str, Any]
    words: dict[str, str]
    """The overrides that the draw stands for."""
    seed: int = 0
    """Added to the search's."""
    of: int | None = None
    """The trial that this one is again, with another seed."""
    state: State = "waiting"
    looks: list[Look] = field(default_factory=list)
    reason: str = ""
    losses: int = 0
    """How often it was lost since something was last learnt of it."""
    run_id: str | None = None
    seconds: float = 0.0
    """That workers trained it."""

    def name(self, search: str) -> str:
        return f"{search}-{self.number:03}"

    @property
    def is_open(self) -> bool:
        return self.state in OPEN

    @property
    def epoch(self) -> float:
        """How far it was looked at."""
        return self.looks[-1]["epoch"] if self.looks else 0.0

    @property
    def has_learnt(self) -> bool:
        """Whether something was found of it after its beginning."""
        return any(look["step"] > 0 for look in self.looks)

    def last(self, metric: str) -> float | None:
        """The newest value; None: it was never found after the beginning."""
        found = [
            look[metric] for look in self.looks if look["step"] > 0 and math.isfinite(look.get(metric, math.nan))
        ]
        return found[-1] if found else None

    def see(self, look: Look) -> bool:
        """Whether it is new."""
        if self.looks and look["step"] <= self.looks[-1]["step"]:
            return False
        self.looks.append(look)
        return True


class Memory:
    """Written by the search's own process alone."""

    def __init__(self, search: Folder) -> None:
        self._folder = search.below(TRIALS)
        self.records: dict[int, Record] = {}
        for name in self._folder.names():
            if re.fullmatch(r"\d+\.json", name):
                record = known(search, int(name.removesuffix(".json")))
                self.records[record.number] = record

    def __iter__(self) -> Iterator[Record]:
        return iter([self.records[number] for number in sorted(self.records)])

    def add(self, draw: Mapping[str, Any], words: dict[str, str], seed: int = 0, of: int | None = None) -> Record:
        record = Record(max(self.records, default=-1) + 1, dict(draw), words, seed, of)
        self.keep(record)
        self.records[record.number] = record
        return record

    def keep(self, record: Record) -> None:
        patiently(lambda: self._write(record))

    def _write(self, record: Record) -> None:
        self._folder.write(_file(record.number), json.dumps(asdict(record), indent=1).encode())


def _file(number: int) -> str:
    return f"{number:03}.json"


def known(search: Folder, number: int) -> Record:
    """Of one trial."""
    folder = search.below(TRIALS)
    try:
        return Record(**json.loads(folder.read(_file(number))))
    except (ValueError, TypeError) as error:
        raise Failure(f"{folder.url}/{_file(number)} cannot be read: {error}") from None
