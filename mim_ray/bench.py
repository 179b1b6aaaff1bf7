"""Ratios that hold on a noisy machine: both sides in one run, turn by turn, the median of the paired ratios."""

import statistics
from collections.abc import Callable
from math import comb
from typing import NamedTuple

from mim_ray.progress import progress


class Finding(NamedTuple):
    ratio: float
    low: float
    """The 95 % confidence interval of the median."""
    high: float
    pairs: int
    unit: str


Side = Callable[[], float]
"""Does a fixed amount of work and returns its rate or cost."""


def paired(what: str, ours: Side, theirs: Side, *, pairs: int, unit: str) -> Finding:
    """ours / theirs, each pair measured back to back, the order swapped from pair to pair."""
    ratios = []
    ours(), theirs()
    with progress(what, pairs, "pairs") as advance:
        for number in range(pairs):
            if number % 2:
                b, a = theirs(), ours()
            else:
                a, b = ours(), theirs()
            ratios.append(a / b)
            advance(1)
    return median_of(ratios, unit)


def median_of(values: list[float], unit: str) -> Finding:
    low, high = median_interval(values)
    return Finding(statistics.median(values), low, high, len(values), unit)


def median_interval(values: list[float], confidence: float = 0.95) -> tuple[float, float]:
    """Distribution-free: the order statistics between which the median lies; all of them when they are few."""
    ordered, count = sorted(values), len(values)
    outside, rank = 0.0, 0
    while rank < (count - 1) // 2 and 2 * (outside + comb(count, rank) / 2**count) <= 1 - confidence:
        outside += comb(count, rank) / 2**count
        rank += 1
    rank = max(rank - 1, 0)
    return ordered[rank], ordered[-1 - rank]
