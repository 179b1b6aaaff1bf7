"""What a search has found so far: who is best, who goes to the final, what none is better in all of."""

import statistics
from collections.abc import Iterable
from typing import Any

from mim_ray.scores import worth
from mim_ray.search.memory import Record
from mim_ray.search.plan import Search

Row = dict[str, Any]


def ranked(records: Iterable[Record], search: Search) -> list[Record]:
    """Those that came to their end first, then those that came furthest; the best first where both came as far."""
    first = search.metric[0]
    valued = [
        record for record in records if record.last(first) is not None and record.state not in ("failed", "lost")
    ]
    return sorted(valued, key=lambda one: (*_how_far(one), worth(first, one.last(first) or 0.0)), reverse=True)


def _how_far(record: Record) -> tuple[bool, float]:
    """All ends are alike, whatever the number of epochs; before it, values at different epochs say little."""
    is_whole = record.state == "finished"
    return is_whole, 0.0 if is_whole else round(record.epoch, 6)


def best_of(records: Iterable[Record], search: Search) -> Record | None:
    """By the mean over its seeds, where it has others; one with a seed that failed only where all have."""
    every = list(records)
    firsts = ranked((record for record in every if record.of is None), search)
    if not firsts:
        return None
    rivals = [record for record in firsts if seeds_of(record, every)] or firsts
    return max(
        (record for record in rivals if _how_far(record) == _how_far(rivals[0])),
        key=lambda one: (
            -len(failed_seeds_of(one, every)),
            worth(search.metric[0], spread(one, every, search.metric[0])[0]),
        ),
    )


def seeds_of(record: Record, records: Iterable[Record]) -> list[Record]:
    """The same trial with other seeds."""
    return [other for other in records if other.of == record.number and other.state == "finished"]


def failed_seeds_of(record: Record, records: Iterable[Record]) -> list[Record]:
    return [other for other in records if other.of == record.number and other.state == "failed"]


def spread(record: Record, records: Iterable[Record], metric: str) -> tuple[float, float | None]:
    """Mean over the seeds, and deviation where there are several."""
    values = [value for one in [record, *seeds_of(record, records)] if (value := one.last(metric)) is not None]
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None


def front(records: Iterable[Record], search: Search) -> list[Record]:
    """Trials than which no other is better in one metric and not worse in another, by means over seeds."""
    every = list(records)
    ended = [
        record
        for record in every
        if record.of is None
        and record.state == "finished"
        and all(record.last(metric) is not None for metric in search.metric)
    ]
    points = {
        record.number: [worth(metric, spread(record, every, metric)[0]) for metric in search.metric]
        for record in ended
    }

    def is_beaten(mine: list[float]) -> bool:
        return any(
            all(b >= a for a, b in zip(mine, other, strict=True)) and other != mine for other in points.values()
        )

    return [record for record in ended if not is_beaten(points[record.number])]


def rows(records: Iterable[Record], search: Search) -> list[Row]:
    """The table of a search: the best first, then the other finalists, then all others; further seeds last."""
    every = list(records)
    best, order = best_of(every, search), ranked(every, search)
    order += [record for record in every if record not in order]
    order.sort(key=lambda one: (one.of is not None, one is not best, not seeds_of(one, every)))
    return [_row(record, every, search) for record in order]


def _row(record: Record, every: list[Record], search: Search) -> Row:
    row: Row = {"trial": record.number, **record.words, "epoch": round(record.epoch, 4)}
    for metric in search.metric:
        row[metric] = record.last(metric)
    others = seeds_of(record, every)
    if others and record.last(search.metric[0]) is not None:
        mean, deviation = spread(record, every, search.metric[0])
        row |= {"mean": mean, "std": deviation, "seeds": 1 + len(others)}
    if failed := failed_seeds_of(record, every):
        row["seeds failed"] = len(failed)
    seed = {} if record.of is None else {"seed of": record.of}
    return row | {"state": record.state, **seed, **({"reason": record.reason} if record.reason else {})}
