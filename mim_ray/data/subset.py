"""Which samples of a source are taken: exact, repeatable, and nested (n=10 lies within n=100)."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, PositiveInt

from mim_ray.config import Spec
from mim_ray.draws import Purpose, permutation
from mim_ray.errors import Mistake, nearest

Int64s = NDArray[np.int64]


class Subset(Spec):
    """At most one of n, per_class, fraction, or n of per_class; one_class narrows the source before that."""

    n: PositiveInt | None = Field(None, description="this many images at random; with per_class: of those")
    per_class: PositiveInt | None = Field(None, description="this many images of every class")
    one_class: str | None = Field(None, description="only this class")
    fraction: float | None = Field(None, gt=0, le=1, description="this share of every class (stratified)")


@dataclass(frozen=True)
class Choice:
    """What was drawn, and for each group of equals what comes next should a drawn image be unusable."""

    chosen: Int64s
    _group_of: Int64s
    _spares: dict[int, Iterator[int]]
    exact: bool
    """Whether the user asked for a number of images, so that an unusable one is replaced."""

    def spare_for(self, sample: int) -> int | None:
        return next(self._spares[int(self._group_of[sample])], None) if self.exact else None


def choose(subset: Subset, labels: Int64s | None, classes: tuple[str, ...], size: int, seed: int) -> Choice:
    asked = [name for name in ("n", "per_class", "fraction") if getattr(subset, name) is not None]
    if len(asked) > 1 and asked != ["n", "per_class"]:
        raise Mistake(f"{' and '.join(asked)} cannot be asked for together: choose one")
    wants_classes = [name for name in ("per_class", "one_class") if getattr(subset, name) is not None]
    if labels is None and wants_classes:
        raise Mistake(f"{wants_classes[0]}= needs labels, and this source has none")
    shuffled = permutation(size, Purpose.SUBSET, seed)
    group_of = np.zeros(size, np.int64) if labels is None else labels
    if subset.one_class is not None:
        shuffled = shuffled[group_of[shuffled] == _class_number(subset.one_class, classes)]
    if not len(shuffled):
        of_class = f" of class {subset.one_class!r}" if subset.one_class else ""
        raise Mistake(f"the source has no images{of_class}")
    if subset.per_class is None and subset.n is not None:
        group_of = np.zeros(size, np.int64)  # any image may stand in for any other
    groups = {int(g): shuffled[group_of[shuffled] == g] for g in np.unique(group_of[shuffled])}
    counts = _counts(subset, {g: len(members) for g, members in groups.items()}, classes)
    drawn = np.concatenate([members[: counts[g]] for g, members in groups.items()])
    if subset.n is not None:
        if subset.n > len(drawn):
            raise Mistake(f"n={subset.n}: the source has {len(drawn)} images to draw from")
        drawn = shuffled[np.isin(shuffled, drawn)][: subset.n]  # any of them, of whichever class
    return Choice(
        drawn,
        group_of,
        {g: iter(members[counts[g] :].tolist()) for g, members in groups.items()},
        exact=bool(asked),
    )


def _counts(subset: Subset, sizes: dict[int, int], classes: tuple[str, ...]) -> dict[int, int]:
    if subset.n is not None and subset.per_class is None:
        return dict.fromkeys(sizes, subset.n)
    if subset.per_class is not None:
        for group, size in sizes.items():
            if size < subset.per_class:
                raise Mistake(f"per_class={subset.per_class}: class {classes[group]!r} has {size} images")
        return dict.fromkeys(sizes, subset.per_class)
    if subset.fraction is not None:
        return _apportioned(subset.fraction, sizes)
    return sizes


def _apportioned(fraction: float, sizes: dict[int, int]) -> dict[int, int]:
    """Every class its share and at least one image; what rounding leaves goes to the largest remainders."""
    exact = {group: fraction * size for group, size in sizes.items()}
    counts = {group: max(1, int(share)) for group, share in exact.items()}
    left = round(sum(exact.values())) - sum(counts.values())
    by_remainder = sorted(exact, key=lambda group: (counts[group] - exact[group], group))
    for group in by_remainder[: max(0, left)]:
        counts[group] += 1
    return counts


def _class_number(name: str, classes: tuple[str, ...]) -> int:
    if name not in classes:
        raise Mistake(f"one_class={name}: no class of that name{_choices(name, classes)}")
    return classes.index(name)


def _choices(name: str, classes: tuple[str, ...]) -> str:
    """Of two numbers neither is a slip of the pen for the other."""
    if not name.isdecimal():
        return nearest(name, classes)
    return f": choose from {', '.join(classes[:20])}{', …' * (len(classes) > 20)}"
