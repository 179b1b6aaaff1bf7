"""The trials that a sitting loses: which of them by their own fault, and when there is no use in going on."""

from typing import NamedTuple

from mim_ray.search.memory import Record

TRIES = 2
"""So often a trial is lost, and learns nothing between, until it has failed."""

FRUITLESS = 3
"""How many trials of a sitting may be lost one after another."""


class Loss(NamedTuple):
    record: Record
    is_first: bool
    has_begun: bool
    """Whether its workers had come as far as the trial itself."""


class Losses:
    """Of one sitting, over all of its parts."""

    def __init__(self) -> None:
        self._row: list[Loss] = []
        self.is_fruitful = False
        """Whether something was learnt in it."""

    def learnt(self) -> None:
        """Of another trial, so the world is there."""
        self._row, self.is_fruitful = [], True

    def add(self, record: Record, *, has_begun: bool) -> None:
        record.losses += 1
        self._row.append(Loss(record, record.losses == 1, has_begun))

    @property
    def is_fruitless(self) -> bool:
        """Whether there is no use in going on now; of that one says nothing that was lost before."""
        return sum(loss.is_first for loss in self._row) >= FRUITLESS

    def forgiven(self) -> list[Record]:
        """Those of a fruitless sitting that an outage may have taken before their workers began: it costs none."""
        innocent = [loss.record for loss in self._row if not loss.has_begun]
        for record in innocent:
            record.losses -= 1
            record.state = "lost"
        return innocent
