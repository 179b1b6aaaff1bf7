"""Who sees which sample when: the stream of samples as a pure function of (seed, step, rank, world).

The stream is rounds of permutations of the set, laid end to end. Epoch e takes `samples_per_epoch` of it
(by default one round); step s takes the next `batch` of its epoch; rank r takes its slice of that. Nothing
is stored, so any step can be asked for again by any number of ranks.
"""

import operator
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mim_ray.draws import Purpose, permutation
from mim_ray.errors import Mistake

Int64s = NDArray[np.int64]
SEEDS = 1 << 63
"""Seeds lie below: a draw's key has 64 bits, in which a negative seed would be the twin of a large one."""


def require_whole(name: str, value: Any, least: int, below: int | None = None) -> None:
    with suppress(TypeError):
        number = operator.index(value)
        if number >= least and (below is None or number < below):
            return
    wanted = f"of at least {least}" if below is None else f"from {least} to {below - 1}"
    raise Mistake(f"{name}={value!r}: expected a whole number {wanted}")


@dataclass(frozen=True)
class Order:
    samples: int
    batch: int
    """The global batch: what all ranks together take in one step."""
    seed: int = 0
    samples_per_epoch: int | None = None
    """A virtual epoch: draws with balanced repetition, for sets of a few images. None: one round."""
    shuffle: bool = True
    keep_tail: bool = False
    """Whether the last, smaller batch of an epoch is taken (evaluation) or left (training)."""

    def __post_init__(self) -> None:
        require_whole("batch", self.batch, 1)
        require_whole("seed", self.seed, 0, SEEDS)
        require_whole("samples_per_epoch", self.epoch_size, 1)
        if not self.keep_tail and self.epoch_size < self.batch:
            raise Mistake(
                f"batch={self.batch} is larger than an epoch of {self.epoch_size} samples: lower batch= or "
                f"make a longer virtual epoch with samples_per_epoch={self.batch} or more"
            )

    @property
    def epoch_size(self) -> int:
        return self.samples if self.samples_per_epoch is None else self.samples_per_epoch

    @property
    def steps_per_epoch(self) -> int:
        return -(-self.epoch_size // self.batch) if self.keep_tail else self.epoch_size // self.batch

    def share(self, step: int, rank: int = 0, world: int = 1) -> tuple[Int64s, Int64s]:
        """(positions in the stream, samples) of one rank at a step; the ranks' shares lie end to end."""
        epoch, within = divmod(step, self.steps_per_epoch)
        start = within * self.batch
        size = min(self.batch, self.epoch_size - start)
        first = epoch * self._stride + start
        positions = np.arange(first + size * rank // world, first + size * (rank + 1) // world)
        return positions, self._samples_at(positions)

    @property
    def _stride(self) -> int:
        """From one epoch's first position to the next's. A virtual epoch leaves nothing out between them."""
        virtual = self.samples_per_epoch is not None and not self.keep_tail
        return self.steps_per_epoch * self.batch if virtual else self.epoch_size

    def largest_share(self, world: int) -> int:
        return -(-self.batch // world)

    def _samples_at(self, positions: Int64s) -> Int64s:
        rounds, offsets = np.divmod(positions, self.samples)
        if not self.shuffle:
            return offsets
        numbers, which = np.unique(rounds, return_inverse=True)
        if len(numbers) > 2:  # rounds smaller than a batch, made together; a large one is kept from step to step
            return permutation(self.samples, Purpose.ORDER, self.seed, numbers[:, None])[which, offsets]
        found = np.empty_like(offsets)
        for at, number in enumerate(numbers):
            here = which == at
            found[here] = _round(self.samples, self.seed, int(number))[offsets[here]]
        return found


@lru_cache(maxsize=4)
def _round(samples: int, seed: int, number: int) -> Int64s:
    return permutation(samples, Purpose.ORDER, seed, number)
