"""What a search has found so far: who is best, who goes to the final, what none is better in all of."""

import math
import statistics
from collections.abc import Iterable
from typing import Any

from mim_ray.scores import worth
from mim_ray.search.memory import Record
from mim_ray.search.plan import Search

Row = dict[str, Any]


def ranked(records: Iterable[Record], search: Search) -> list[Record]:
    """Those that came furthest first, of them the best first: values at different epochs say little."""
    first = search.metric[0]
    valued = [
        record for record in records if record.last(first) is not None and record.state not in ("failed", "lost")
    ]
    return sorted(valued, key=lambda one: (one.epoch, worth(first, one.last(first) or 0.0)), reverse=True)


def best_of(records: Iterable[Record], search: Search) -> Record | None:
    """By the mean over its seeds, where it has others."""
    every = list(records)
    firsts = ranked((record for record in every if record.of is None), search)
    if not firsts:
        return None
    rivals = [record for record in firsts if seeds_of(record, every)] or firsts
    furthest = max(record.epoch for record in rivals)
    return max(
        (record for record in rivals if math.isclose(record.epoch, furthest)),
        key=lambda one: worth(search.metric[0], spread(one, every, search.metric[0])[0]),
    )


def seeds_of(record: Record, records: Iterable[Record]) -> list[Record]:
    """The same trial with other seeds."""
    return [other for other in records if other.of == record.number and other.state == "finished"]


def spread(record: Record, records: Iterable[Record], metric: str) -> tuple[float, float | None]:
    """Mean over the seeds, and deviation where there are several."""
    values = [value for one in [record, *seeds_of(record, records)] if (value := one.last(metric)) is not None]
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None


def front(records: Iterable[Record], search: Search) -> list[Record]:
    """Trials than which no other is better in one metric and not worse in another."""
    ended = [record for record in records if record.of is None and record.state == "finished"]
    points = {
        record.number: [worth(metric, record.last(metric) or 0.0) for metric in search.metric]
        for record in ended
        if all(record.last(metric) is not None for metric in search.metric)
    }

    def is_beaten(mine: list[float]) -> bool:
        return any(
            all(b >= a for a, b in zip(mine, other, strict=True)) and other != mine for other in points.values()
        )

    return [record for record in ended if record.number in points and not is_beaten(points[record.number])]


def rows(records: Iterable[Record], search: Search) -> list[Row]:
    """The table of a search, the best first."""
    every = list(records)
    order = ranked(every, search)
    order += [record for record in every if record not in order]
    return [_row(record, every, search) for record in order]


def _row(record: Record, every: list[Record], search: Search) -> Row:
    row: Row = {"trial": record.number, **record.words, "epoch": round(record.epoch, 4)}
    for metric in search.metric:
        row[metric] = record.last(metric)
    others = seeds_of(record, every)
    if others and record.last(search.metric[0]) is not None:
        mean, deviation = spread(record, every, search.metric[0])
        row |= {"mean": mean, "std": deviation, "seeds": 1 + len(others)}
    seed = {} if record.of is None else {"seed of": record.of}
    return row | {"state": record.state, **seed, **({"reason": record.reason} if record.reason else {})}
