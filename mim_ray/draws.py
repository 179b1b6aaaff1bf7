"""Randomness without state: every draw is a hash of what it is for, so it can be made again anywhere.

The words of a key (a seed, a purpose, a position) go through splitmix64 one after another. Integers only,
so the same key gives the same bits on every machine, in any number of threads, in every library version.
"""

from enum import IntEnum

import numpy as np
from numpy.typing import ArrayLike, NDArray

U64 = NDArray[np.uint64]


class Purpose(IntEnum):
    """Two draws for different purposes never share a key."""

    ORDER = 1
    CROP = 2
    SUBSET = 3
    WRITE = 4
    MASK = 5
    COLOUR = 6
    CUTMIX = 7
    STEP = 8
    MIXUP = 9
    EITHER = 10
    AUGMENT = 11
    ERASE = 12
    ROTATE = 13


def _mix(x: U64) -> U64:
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def keys(purpose: Purpose, *words: ArrayLike) -> U64:
    """One 64-bit key for each element of the broadcast words."""
    state = _mix(np.array([purpose], dtype=np.uint64))
    for word in words:
        state = _mix(state ^ np.atleast_1d(np.asarray(word)).astype(np.uint64))
    return state


def uniforms(key: U64, count: int) -> NDArray[np.float64]:
    """`count` numbers in [0, 1) for each key, in a new last axis."""
    bits = _mix(key[..., None] + np.arange(count, dtype=np.uint64) * np.uint64(0xD1342543DE82EF95))
    return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53


def permutation(size: int, purpose: Purpose, *words: ArrayLike) -> NDArray[np.int64]:
    """The numbers 0 … size−1 in the order of their hashes."""
    return np.argsort(_mix(keys(purpose, *words) ^ _mix(np.arange(size, dtype=np.uint64))), kind="stable")
