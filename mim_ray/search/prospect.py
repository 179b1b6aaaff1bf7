"""What a search will take: trials, workers, how many at a time, and hours."""

import math
import statistics
from collections.abc import Iterable, Mapping
from typing import Any

import optuna
import ray

from mim_ray.cost import cost
from mim_ray.errors import Mistake, nearest
from mim_ray.ray_room import can_grow_to, cores_of_a_worker, cores_of_nodes, grows, workers_that_fit
from mim_ray.run import Run
from mim_ray.scores import COST
from mim_ray.search.plan import Search, workers_of_the_best
from mim_ray.search.rehearsal import Rehearsal
from mim_ray.search.space import Space, paths_of, run_of

DRAWS = 8
"""Of the space, whose costs stand for all."""

IDLE = 0.25
"""Share of the cores that may be left out so that a worker has more of them."""

START_SECONDS = 15.0
"""Until the workers of the first trials train; later trials find them ready."""


def concurrency(search: Search, needed: Mapping[str, float], *, may_grow: bool = True) -> int:
    """Trials that the cluster can have at a time; refuses more. `may_grow`: whether to ask an autoscaler, who may
    bring nodes for it."""
    each, resources = search.workers_per_trial, dict(needed)
    now = workers_that_fit(resources) // each
    if search.concurrent is not None:
        if search.concurrent <= now or (grows() and can_grow_to(search.concurrent * each, resources)):
            return search.concurrent
        asked = ", ".join(f"{amount:g} {name}" for name, amount in needed.items())
        raise Mistake(
            f"concurrent={search.concurrent}: {search.concurrent * each} workers with {asked} each are more than "
            f"the cluster can have: expected at most {max(now, 1)}"
        )
    now = min(max(now, 1), search.trials)
    if not may_grow or not grows():
        return now
    most = search.trials
    if can_grow_to(most * each, resources):
        return most
    while most - now > 1:  # it can have `now`, and not `most`
        between = (now + most) // 2
        now, most = (between, most) if can_grow_to(between * each, resources) else (now, between)
    return now


def still_fitting(search: Search, needed: Mapping[str, float]) -> int:
    """In another sitting, on a cluster that may have become smaller: what it can have of what was asked for."""
    try:
        return concurrency(search, needed)
    except Mistake:
        return concurrency(search.model_copy(update={"concurrent": None}), needed)


def cores(search: Search, gpus: float) -> int:
    """Of a worker, where nobody says: its share of what all trials have together, as many as have GPUs; without
    GPUs the most of which few stay idle."""
    each, there = search.workers_per_trial, ray.cluster_resources().get("GPU", 0.0)
    together = min(search.trials, int(there // (gpus * each))) if gpus else 1
    most = cores_of_a_worker(each * (search.concurrent or max(1, together)), gpus)
    if gpus or search.concurrent is not None:
        return most
    have = cores_of_nodes()
    for fewer in range(most, 0, -1):
        together = min(search.trials, sum(node // fewer for node in have) // each)
        if together * each * fewer >= (1 - IDLE) * sum(have):
            return fewer
    return most


def idle_cores(search: Search, needed: Mapping[str, float], concurrent: int) -> str | None:
    """So many of so many, where they are more than a few, and no GPUs say how many trials there can be."""
    if needed.get("GPU") or grows():
        return None
    there = sum(cores_of_nodes())
    idle = there - round(concurrent * search.workers_per_trial * needed["CPU"])
    return f"{idle} of {there}" if idle > IDLE * there else None


def check_batches(space: Space, runs: Iterable[Run], rehearsal: Rehearsal) -> None:
    """Refuses those that no epoch has; `runs`: of the space's corners, of which the largest batch is named."""
    too_large = [run for run in runs if run.batch > rehearsal.epoch(run)]
    if not too_large:
        return
    largest = max(too_large, key=lambda run: run.batch)
    most = rehearsal.epoch(largest)
    is_searched = any("batch" in paths_of(name) for name in space.domains)
    smaller = f"a space of your own with at most {most}" if is_searched else f"batch={most} or less"
    raise Mistake(
        f"space {space.name}: may draw batch={largest.batch}, which is larger than an epoch of {most} samples: "
        f"expected {smaller}, or longer virtual epochs with data.samples_per_epoch={largest.batch} or more"
    )


def check_rehearsal(search: Search, runs: Iterable[Run], rehearsal: Rehearsal) -> None:
    """Refuses what no trial would ever log, and rungs closer than steps; `runs`: of the space's corners."""
    steps = min(map(rehearsal.steps, runs))
    if search.looks is not None and search.looks > steps:
        raise Mistake(
            f"rungs={search.rungs}: a trial has {steps} steps, and would be looked at {search.looks} times: "
            "expected fewer, or more epochs="
        )
    there = [*rehearsal.metrics, *COST]
    for metric in search.metric:
        if metric not in there:
            raise Mistake(f"metric={metric}: no trial logs it{nearest(metric, there)}")


def prospect(
    search: Search,
    space: Space,
    fixed: Mapping[str, str],
    run: Run,
    rehearsal: Rehearsal,
    concurrent: int,
    gpus: float = 0.0,
) -> dict[str, Any]:
    """Trials that are stopped cost less: a rung passes one of so many, or more while there are few to compare
    with, or while each new one is better than those before it. So there is a least and a most. `run`: that was
    rehearsed. `gpus`: of a worker."""
    draws = _draws(space, fixed)
    epochs = statistics.fmean(draw.epochs for draw in draws)
    steps = statistics.fmean(map(rehearsal.steps, draws))
    a_flop = rehearsal.step_seconds / _flops(run)
    training = statistics.fmean(rehearsal.steps(draw) * _flops(draw) * a_flop for draw in draws)
    looks = search.looks or statistics.fmean(map(_own_looks, draws))
    whole = training + looks * rehearsal.look_seconds
    final = search.finalists * (search.seeds - 1)
    winner = (search.retrain or 0) / epochs
    its_workers = workers_of_the_best(search, concurrent, run)
    shares = _share(search), 1.0
    every = [search.trials * share + final for share in shares]
    end = math.ceil(final / concurrent) + winner * search.workers_per_trial / int(its_workers.split(":")[-1])
    turns = [_turns(search.trials, share, concurrent) + end for share in shares]
    worker_hours = [(trials + winner) * whole * search.workers_per_trial / 3600 for trials in every]
    return {
        "steps_of_a_trial": round(steps),
        "seconds_of_a_step": round(training / steps, 4),
        "seconds_of_a_look": round(rehearsal.look_seconds, 3),
        "whole_trials": [round(trials, 2) for trials in every],
        "worker_hours": worker_hours,
        **({"gpu_hours": [hours * gpus for hours in worker_hours]} if gpus else {}),
        **({"workers_of_the_best": its_workers} if search.retrain else {}),
        "hours": [(one_after_another * whole + START_SECONDS) / 3600 for one_after_another in turns],
    }


def _turns(trials: int, share: float, concurrent: int) -> float:
    """Whole trials one after another: the best one is never stopped, and none is shared between slots."""
    return math.ceil(trials / concurrent) if share == 1 else max(1.0, trials * share / concurrent)


def _flops(run: Run) -> int:
    """Of a step."""
    return run.batch * cost(run).flops


def _own_looks(run: Run) -> float:
    return 0.0 if run.eval.every_epochs is None else run.epochs / run.eval.every_epochs


def _share(search: Search) -> float:
    """Of a whole trial, what the mean one trains: one in `reduction` passes each rung."""
    if search.scheduler != "asha" or not search.rungs:
        return 1.0
    ends = [search.reduction**rung / (search.looks or 1) for rung in range(search.rungs)]
    passed, share, before = 1.0, 0.0, 0.0
    for end in [*ends, 1.0]:
        share += passed * (end - before)
        passed, before = passed / search.reduction, end
    return share


def _draws(space: Space, fixed: Mapping[str, str]) -> list[Run]:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    draws = [study.ask(space.domains).params for _ in range(DRAWS)]
    return [run_of(space, space.words(draw), fixed) for draw in draws]
