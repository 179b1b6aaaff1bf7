"""A search in pictures and tables, for its parent run in MLflow and its own folder."""

import json
import logging
import math
from collections.abc import Callable
from pathlib import Path

import optuna

from mim_ray import charts
from mim_ray.phrases import as_text
from mim_ray.scores import is_higher_better
from mim_ray.search.memory import Record
from mim_ray.search.plan import Search
from mim_ray.search.results import front, ranked, rows, spread
from mim_ray.search.space import WHERE, Space, paths_of

logger = logging.getLogger("mim_ray")
FEWEST = 4
"""Trials from which something can be said of what matters."""


def written(records: list[Record], search: Search, space: Space, epochs: int, folder: Path) -> list[Path]:
    """The files that could be made, in this folder."""
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / "trials.json"]
    files[0].write_text(json.dumps(rows(records, search), indent=1))
    valued = ranked((record for record in records if record.of is None), search)
    if not valued:
        return files
    drawings: dict[str, Callable[[Path], bool]] = {
        "parallel_coordinates": lambda path: _parallel(valued, search, space, path),
        "learning_curves": lambda path: _curves(valued, search, epochs, path),
        "responses": lambda path: _responses(valued, records, search, space, path),
        "importance": lambda path: _importance(valued, search, space, path),
        "front": lambda path: _front(valued, records, search, path),
    }
    for name, draw in drawings.items():
        path = folder / f"{name}.png"
        try:
            if draw(path):
                files.append(path)
        except Exception as error:  # a picture less is no reason to lose the others
            logger.warning("%s is not drawn: %s", name, error)
    return files


def importance(records: list[Record], search: Search, space: Space) -> dict[str, float]:
    """fANOVA's shares of the variance, over what every trial was worth at the last look that all of them had; of
    settings that every trial has."""
    look, metric = common_look(records), search.metric[0]
    domains = {name: domain for name, domain in space.domains.items() if name not in space.only}
    study = optuna.create_study(direction="maximize" if is_higher_better(metric) else "minimize")
    for record in records:
        value = value_at(record, look, metric)
        if value is not None and math.isfinite(value):
            draw = {name: record.draw[name] for name in domains}
            study.add_trial(optuna.trial.create_trial(params=draw, distributions=domains, value=value))
    values = {trial.value for trial in study.trials}
    if len(study.trials) < FEWEST or len(values) == 1:
        return {}
    from optuna.importance import FanovaImportanceEvaluator, get_param_importances  # brings scikit-learn

    found = get_param_importances(study, evaluator=FanovaImportanceEvaluator(seed=0))
    return {name: float(share) for name, share in found.items()}


def common_look(records: list[Record]) -> int:
    """The last that all trials had."""
    return min((int(record.looks[-1]["look"]) for record in records if record.looks), default=0)


def value_at(record: Record, look: int, metric: str) -> float | None:
    found = [one[metric] for one in record.looks if one["look"] == look and metric in one]
    return found[-1] if found else record.last(metric)


def _parallel(records: list[Record], search: Search, space: Space, path: Path) -> bool:
    furthest = [record for record in records if math.isclose(record.epoch, records[0].epoch)]
    if len(furthest) < 2:
        furthest = records
    metric = search.metric[0]
    names = [name for name in space.domains if any(space.exists(name, record.draw) for record in furthest)]
    lines = [
        {_short(name): _shown(record, name, space) for name in names} | {metric: record.last(metric)}
        for record in furthest
    ]
    charts.parallel_coordinates(lines, metric, path)
    return True


def _curves(records: list[Record], search: Search, epochs: int, path: Path) -> bool:
    metric = search.metric[0]
    curves = {
        f"trial {record.number}": [(look["epoch"], look[metric]) for look in record.looks if metric in look]
        for record in records
    }
    rungs: list[float] = []
    if search.scheduler == "asha" and search.looks:
        rungs = [epochs * search.reduction**rung / search.looks for rung in range(search.rungs)]
    charts.learning_curves(
        {name: points for name, points in curves.items() if points}, rungs, ("epoch", metric), path
    )
    return True


def _responses(records: list[Record], every: list[Record], search: Search, space: Space, path: Path) -> bool:
    metric, look = search.metric[0], common_look(records)
    panels = {}
    for name in space.domains:
        points = []
        for record in (record for record in records if space.exists(name, record.draw)):
            early = value_at(record, look, metric)
            if early is not None and record.state != "finished":
                points.append(charts.Response(_shown(record, name, space), early, None, is_whole=False))
            if record.state == "finished":
                mean, deviation = spread(record, every, metric)
                points.append(charts.Response(_shown(record, name, space), mean, deviation, is_whole=True))
        if points:
            panels[_short(name)] = points
    charts.responses(panels, metric, path)
    return True


def _importance(records: list[Record], search: Search, space: Space, path: Path) -> bool:
    found = importance(records, search, space)
    if found:
        title = f"share of the variance of {search.metric[0]} (fANOVA, look {common_look(records)})"
        charts.bars({_short(name): share for name, share in found.items()}, title, path)
    return bool(found)


def _front(records: list[Record], every: list[Record], search: Search, path: Path) -> bool:
    """Of means over seeds where there are several."""
    if len(search.metric) < 2:
        return False
    best = {record.number for record in front(every, search)}
    first, second = search.metric[:2]
    points = [
        (spread(record, every, second)[0], spread(record, every, first)[0], record.number in best)
        for record in records
        if record.last(first) is not None and record.last(second) is not None
    ]
    charts.scatter(points, (second, first), path)
    return True


def _shown(record: Record, name: str, space: Space) -> object:
    """None where it has no such setting."""
    if not space.exists(name, record.draw):
        return None
    return as_text(record.draw[name]) if not isinstance(record.draw[name], int | float) else record.draw[name]


def _short(name: str) -> str:
    """Of joined paths the first."""
    first, *others = paths_of(name)
    case = name.partition(WHERE)[2]
    return first + " …" * bool(others) + (f" ({case})" if case else "")
