"""Draws of a space that are not left to chance: its corners, a grid, or all of them."""

import math
from collections.abc import Iterator, Mapping
from itertools import product

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from mim_ray.errors import Mistake
from mim_ray.search.space import Space, run_of, told_at
from mim_ray.training.pieces import check_sizes

MOST_CORNERS = 5000
MOST_POINTS = 1000
"""Of a space that has only so many, all are known."""

MOST_WHOLE = 64
"""Whole numbers of a range that are looked at one by one."""


def check(space: Space, fixed: Mapping[str, str]) -> None:
    """Refuses a space with a corner, or an inside, that its method refuses, or whose batch the workers of a trial
    cannot share. Nothing is trained."""
    inside = {name: _inside(domain) for name, domain in space.domains.items()}
    for draw in [*corners(space), inside, *_whole_numbers(space, inside)]:
        words = space.words(draw)
        run = run_of(space, words, fixed)
        with told_at(space, words):
            check_sizes(run)


def corners(space: Space) -> Iterator[dict[str, object]]:
    """Every value of what is chosen, with both ends of every range."""
    sides = {name: _ends(domain) for name, domain in space.domains.items()}
    count = 1
    for side in sides.values():
        count *= len(side)
    if count > MOST_CORNERS:
        raise Mistake(f"space {space.name}: has {count} corners: expected at most {MOST_CORNERS}")
    for values in product(*sides.values()):
        yield dict(zip(sides, values, strict=True))


def every(space: Space) -> list[dict[str, object]]:
    """All draws of a space that has few; none of one that has many, or a range without steps."""
    sizes = [_size(domain) for domain in space.domains.values()]
    if math.prod(sizes) > MOST_POINTS:
        return []
    return grid(space, int(max(sizes)))


def grid(space: Space, points: int) -> list[dict[str, object]]:
    """Every value of what is chosen, with so many points of every range; a single one is its middle."""
    sides = [[*_points(domain, points)] for domain in space.domains.values()]
    draws = (dict(zip(space.domains, values, strict=True)) for values in product(*sides))
    different: dict[str, dict[str, object]] = {}
    for draw in draws:
        different.setdefault(str(space.words(draw)), draw)
    return list(different.values())


def _size(domain: BaseDistribution) -> float:
    if isinstance(domain, CategoricalDistribution):
        return len(domain.choices)
    assert isinstance(domain, FloatDistribution | IntDistribution)
    return math.inf if domain.step is None else round((domain.high - domain.low) / domain.step) + 1


def _whole_numbers(space: Space, inside: Mapping[str, object]) -> Iterator[dict[str, object]]:
    """One path after another, where a method may take some of a range and not others."""
    for name, domain in space.domains.items():
        if isinstance(domain, IntDistribution):
            for value in _points(domain, min(MOST_WHOLE, int(_size(domain)))):
                yield {**inside, name: value}


def _inside(domain: BaseDistribution) -> object:
    """A number between the ends that is no round one."""
    if isinstance(domain, FloatDistribution) and domain.step is None:
        return domain.low + 0.381966 * (domain.high - domain.low)
    return _ends(domain)[0]


def _ends(domain: BaseDistribution) -> list[object]:
    if isinstance(domain, CategoricalDistribution):
        return list(domain.choices)
    assert isinstance(domain, FloatDistribution | IntDistribution)
    return list(dict.fromkeys([domain.low, domain.high]))


def _points(domain: BaseDistribution, points: int) -> Iterator[object]:
    if isinstance(domain, CategoricalDistribution):
        yield from domain.choices
        return
    assert isinstance(domain, FloatDistribution | IntDistribution)
    whole = isinstance(domain, IntDistribution)
    if domain.step is not None and points >= _size(domain):
        yield from (domain.low + number * domain.step for number in range(int(_size(domain))))
        return
    found = []
    for number in range(points):
        share = 0.5 if points == 1 else number / (points - 1)
        if domain.log:
            value = domain.low ** (1 - share) * domain.high**share
        else:
            value = domain.low + share * (domain.high - domain.low)
        if domain.step is not None and not domain.log:
            value = domain.low + round((value - domain.low) / domain.step) * domain.step
        value = min(max(value, domain.low), domain.high)
        found.append(round(value) if whole else value)
    yield from dict.fromkeys(found)
