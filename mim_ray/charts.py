"""Charts of several runs."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

WIDE = 100.0
"""From this ratio of the largest to the smallest on, numbers are laid out by their logarithm."""

COLOURS = "viridis"


def parallel_coordinates(rows: Sequence[Mapping[str, object]], last: str, path: Path) -> None:
    """A line for each row through an upright axis for each column, coloured by its place on the last one."""
    columns = [name for name in rows[0] if name != last] + [last]
    places = {name: _places([row[name] for row in rows]) for name in columns}
    figure = Figure(figsize=(max(6.0, 2.0 * len(columns)), 4.5), layout="constrained")
    axes = figure.add_subplot()
    shades = matplotlib.colormaps[COLOURS]
    for number, _ in enumerate(rows):
        heights = [places[name][number] for name in columns]
        axes.plot(range(len(columns)), heights, color=shades(heights[-1]), alpha=0.8, marker="o")
    for at, name in enumerate(columns):
        _mark(axes, at, [row[name] for row in rows], places[name])
    axes.set_xticks(range(len(columns)), columns, rotation=15, ha="right")
    axes.set_yticks([])
    axes.spines[:].set_visible(False)
    figure.savefig(path)


def _places(values: Sequence[object]) -> list[float]:
    """Between 0 and 1, by size if they are numbers, else as they are ordered."""
    numbers = _numbers(values)
    if numbers is None:
        known = sorted({str(value) for value in values})
        numbers = [float(known.index(str(value))) for value in values]
    elif min(numbers) > 0 and max(numbers) / min(numbers) >= WIDE:
        numbers = [math.log(number) for number in numbers]
    low, high = min(numbers), max(numbers)
    return [(number - low) / (high - low) if high > low else 0.5 for number in numbers]


def _numbers(values: Sequence[object]) -> list[float] | None:
    try:
        return [float(str(value)) for value in values]
    except ValueError:
        return None


def _mark(axes: Axes, at: int, values: Sequence[object], places: Sequence[float]) -> None:
    """The axis, and what is where on it: all words, or the ends of a range of numbers."""
    axes.axvline(at, color="grey", linewidth=0.8, zorder=0)
    marks = {place: _short(value) for place, value in zip(places, values, strict=True)}
    if _numbers(values) is not None:
        marks = {place: marks[place] for place in (min(marks), max(marks))}
    for place, words in marks.items():
        axes.annotate(words, (at, place), xytext=(4, 4), textcoords="offset points", fontsize=8)


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
