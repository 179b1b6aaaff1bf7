"""Charts of several runs."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

WIDE = 100.0
"""From this ratio of the largest to the smallest on, numbers are laid out by their logarithm."""

COLOURS = "viridis"
ABSENT = -0.12
"""Where a line passes by an axis on which it has no value."""

NAMED = 5
"""How many curves a legend names."""


def parallel_coordinates(rows: Sequence[Mapping[str, object]], last: str, path: Path) -> None:
    """A line for each row through an upright axis for each column, coloured by its place on the last one; below
    those axes of which it has no value."""
    there = dict.fromkeys(name for row in rows for name, value in row.items() if value is not None)
    columns = [name for name in there if name != last] + [last]
    places = {name: _places([row.get(name) for row in rows]) for name in columns}
    figure = Figure(figsize=(max(6.0, 2.0 * len(columns)), 4.5), layout="constrained")
    axes = figure.add_subplot()
    shades = matplotlib.colormaps[COLOURS]
    for number, _ in enumerate(rows):
        heights = [places[name][number] for name in columns]
        axes.plot(range(len(columns)), heights, color=shades(heights[-1]), alpha=0.8, marker="o")
    for at, name in enumerate(columns):
        _mark(axes, at, [row.get(name) for row in rows], places[name])
    axes.set_xticks(range(len(columns)), columns, rotation=15, ha="right")
    axes.set_yticks([])
    axes.spines[:].set_visible(False)
    figure.savefig(path)


def _places(values: Sequence[object]) -> list[float]:
    """Between 0 and 1, by size if they are numbers, else as they are ordered; ABSENT for None."""
    there = [value for value in values if value is not None]
    numbers = _numbers(there)
    if numbers is None:
        known = sorted({str(value) for value in there})
        numbers = [float(known.index(str(value))) for value in there]
    elif min(numbers) > 0 and max(numbers) / min(numbers) >= WIDE:
        numbers = [math.log(number) for number in numbers]
    low, high = min(numbers), max(numbers)
    found = iter([(number - low) / (high - low) if high > low else 0.5 for number in numbers])
    return [ABSENT if value is None else next(found) for value in values]


def _numbers(values: Sequence[object]) -> list[float] | None:
    try:
        return [float(str(value)) for value in values]
    except ValueError:
        return None


def _mark(axes: Axes, at: int, values: Sequence[object], places: Sequence[float]) -> None:
    """The axis, and what is where on it: all words, or the ends of a range of numbers."""
    axes.axvline(at, color="grey", linewidth=0.8, zorder=0)
    there = [(place, value) for place, value in zip(places, values, strict=True) if value is not None]
    marks = {place: _short(value) for place, value in there}
    if _numbers([value for _, value in there]) is not None:
        marks = {place: marks[place] for place in (min(marks), max(marks))}
    if len(there) < len(values):
        marks[ABSENT] = "none"
    for place, words in marks.items():
        axes.annotate(words, (at, place), xytext=(4, 4), textcoords="offset points", fontsize=8)


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


Points = Sequence[tuple[float, float]]


def learning_curves(
    curves: Mapping[str, Points], rungs: Sequence[float], what: tuple[str, str], path: Path
) -> None:
    """A line for each trial, and an upright one at each rung; the best by their ends are named."""
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.add_subplot()
    shades = matplotlib.colormaps[COLOURS]
    for number, (name, points) in enumerate(curves.items()):
        x, y = zip(*points, strict=True)
        named: dict[str, Any] = {"label": name} if number < NAMED else {}
        axes.plot(x, y, color=shades(1 - number / max(len(curves) - 1, 1)), marker=".", alpha=0.8, **named)
    for rung in rungs:
        axes.axvline(rung, color="grey", linewidth=0.8, linestyle=":")
    axes.set_xlabel(what[0])
    axes.set_ylabel(what[1])
    axes.legend(fontsize=8)
    figure.savefig(path)


class Response(NamedTuple):
    """Of one trial."""

    value: object
    """Of the setting."""
    mean: float
    """Over its seeds."""
    deviation: float | None
    is_whole: bool
    """Whether it was trained to its end."""


def responses(panels: Mapping[str, Sequence[Response]], metric: str, path: Path) -> None:
    """How the metric answers to each setting alone; what was stopped on the way is drawn hollow."""
    figure = Figure(figsize=(max(5.0, 3.6 * len(panels)), 3.8), layout="constrained")
    every = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axes, (name, points) in zip(every, panels.items(), strict=True):
        numbers = _numbers([point.value for point in points])
        places = numbers
        if numbers is None:
            known = list(dict.fromkeys(sorted(str(point.value) for point in points)))
            places = [float(known.index(str(point.value))) for point in points]
            axes.set_xticks(range(len(known)), known, rotation=20, ha="right", fontsize=8)
        elif min(numbers) > 0 and max(numbers) / min(numbers) >= WIDE:
            axes.set_xscale("log")
        assert places is not None
        for place, point in zip(places, points, strict=True):
            face = "C0" if point.is_whole else "none"
            axes.errorbar(place, point.mean, point.deviation, fmt="o", color="C0", markerfacecolor=face, capsize=3)
        axes.set_xlabel(name, fontsize=8)
    every[0].set_ylabel(metric)
    for face, words in (("C0", "at the end"), ("none", "at the last look that all trials had, of those stopped")):
        every[0].plot([], [], "o", color="C0", markerfacecolor=face, label=words)
    figure.legend(loc="outside lower center", ncols=2, fontsize=8)
    figure.savefig(path)


def bars(shares: Mapping[str, float], title: str, path: Path) -> None:
    """The longest on top."""
    figure = Figure(figsize=(7, 1.2 + 0.4 * len(shares)), layout="constrained")
    axes = figure.add_subplot()
    ordered = sorted(shares.items(), key=lambda item: item[1])
    axes.barh([name for name, _ in ordered], [share for _, share in ordered])
    axes.set_title(title, fontsize=10)
    figure.savefig(path)


def scatter(points: Sequence[tuple[float, float, bool]], what: tuple[str, str], path: Path) -> None:
    """(x, y, whether no other is better in both): those are joined."""
    figure = Figure(figsize=(6, 4.5), layout="constrained")
    axes = figure.add_subplot()
    axes.scatter([x for x, _, _ in points], [y for _, y, _ in points], color="C0", alpha=0.5)
    best = sorted((x, y) for x, y, is_best in points if is_best)
    axes.plot([x for x, _ in best], [y for _, y in best], color="C1", marker="o")
    axes.set_xlabel(what[0])
    axes.set_ylabel(what[1])
    figure.savefig(path)
