"""A search before it begins: does it fit, how long does it take, is what is searched for ever logged?"""

import logging
import secrets
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from mim_ray.config import changed
from mim_ray.errors import Mistake
from mim_ray.judge import check_words, classes_of
from mim_ray.launch import begun
from mim_ray.ray_room import check_room, resources_of_a_worker
from mim_ray.ray_train import on_ray
from mim_ray.resume import absolute
from mim_ray.run import Run
from mim_ray.search.memory import Record
from mim_ray.search.plan import CORES, LOOKS, Plan, Search, imposed
from mim_ray.search.points import corners, every, grid
from mim_ray.search.prospect import check_batches, check_rehearsal, concurrency, cores, idle_cores, prospect
from mim_ray.search.rehearsal import Rehearsal, rehearsed
from mim_ray.search.space import METHOD, Space, paths_of, run_of, told_at
from mim_ray.tracking.run import resolved_uri
from mim_ray.training.job import JOB

logger = logging.getLogger("mim_ray")
REHEARSAL = "rehearsal"
TURNS = 3
"""Trials one after another below which a searcher has hardly anything to learn from."""


@dataclass(frozen=True)
class Asking:
    """A search before it begins: what it would be, and what it would take."""

    plan: Plan
    space: Space
    prospect: dict[str, Any]


def sized(own: Search, space: Space) -> Search:
    """A grid has as many trials as points, and is not cut short; elsewhere nothing is tried twice."""
    if own.searcher != "grid":
        few = len(every(space))
        return own.model_copy(update={"trials": few}) if 0 < few < own.trials else own
    points = len(grid(space, own.points))
    if points > own.trials:
        raise Mistake(f"trials={own.trials}: the grid has {points} points: expected as many, or fewer points=")
    return own.model_copy(update={"trials": points})


def check_end(own: Search, fixed: Mapping[str, str], model: str | None) -> None:
    """What is done with the best must be possible before anything is searched."""
    if own.retrain is None:
        return
    check_words(own.protocol, {})
    if fixed.get("data.val", "none") == "none":
        raise Mistake(f"retrain={own.retrain}: the best is judged by {own.protocol}: expected data.val=")
    if model is None:
        logger.warning("the best is trained and judged, and not registered: name it by tracking.model=")


def check_labels(own: Search, fixed: Mapping[str, str]) -> None:
    """The best is judged by them; it is found out as the judging would, after all has been trained."""
    if own.retrain is None:
        return
    for path in (fixed[path] for path in ("data.train", "data.val") if fixed.get(path, "none") != "none"):
        try:
            classes_of(path)
        except Mistake as lacking:
            raise Mistake(f"retrain={own.retrain}: the best is judged by {own.protocol}: {lacking}") from None


def described(asked: Asking) -> str:
    found, plan, own = asked.prospect, asked.plan, asked.plan.search
    workers = f"{own.workers_per_trial} worker{'s' * (own.workers_per_trial > 1)} of {found['resources']}"
    unit, hours = ("GPU", found["gpu_hours"]) if "gpu_hours" in found else ("worker", found["worker_hours"])
    judging = ", without the judging" * (own.retrain is not None)
    final = f", then {own.finalists} finalists with {own.seeds} seeds" if own.finalists else ""
    if own.retrain is not None:
        final += f", then the best for {own.retrain} epochs on {found['workers_of_the_best']} workers"
    return (
        f"{plan.name}: {own.trials} trials of {asked.space.name} ({own.searcher}, {own.scheduler}){final}\n"
        f"  each on {workers}, {plan.concurrent} at a time\n"
        f"  {found['steps_of_a_trial']} steps of {found['seconds_of_a_step']:.3g} s for a whole trial; about "
        f"{_from_to(found['whole_trials'])} whole trials in all: {_from_to(hours)} {unit} hours, "
        f"{_from_to(found['hours'])} on the clock{judging}"
        f"{_idleness(found)}{_blindness(asked)}"
    )


def _idleness(found: Mapping[str, Any]) -> str:
    if "idle_cores" not in found:
        return ""
    return (
        f"\n  {found['idle_cores']} cores of the cluster stay idle: expected another cpus_per_worker= or "
        "concurrent=, or more workers_per_trial="
    )


def _blindness(asked: Asking) -> str:
    """A searcher learns from trials that have ended; where all are tried anyway there is nothing to be chosen."""
    plan, own = asked.plan, asked.plan.search
    learns = own.searcher == "optuna" and not 0 < len(every(asked.space)) <= own.trials
    if not learns or plan.concurrent == 1 or plan.concurrent * TURNS <= own.trials:
        return ""
    return (
        f"\n  {plan.concurrent} of {own.trials} trials at a time: optuna chooses most of them before it knows of "
        f"any, as searcher=random would: expected concurrent={max(1, own.trials // TURNS)} or fewer, "
        f"or trials={TURNS * plan.concurrent}"
    )


def _from_to(range_: list[float]) -> str:
    """As one number where both are alike."""
    least, most = (f"{value:.2g}" for value in range_)
    return least if least == most else f"{least} to {most}"


def facts(asked: Asking) -> dict[str, Any]:
    own = asked.plan.search
    return {"trials": own.trials, "concurrent": asked.plan.concurrent, **asked.prospect}


def looked_at(own: Search, space: Space, run: Run) -> dict[str, str]:
    """How long trials of several methods are, and how often a trial is looked at, so that all are at the rungs."""
    shared = {"epochs": str(run.epochs)} if METHOD in space.domains else {}
    if own.looks is None:
        return shared
    if any("epochs" in paths_of(name) for name in space.domains):
        raise Mistake(
            "epochs: trials are compared at the same epochs of the same schedule: expected scheduler=none"
        )
    return shared | {LOOKS: repr(run.epochs / own.looks)}


def warn_of_warmups(own: Search, runs: Iterable[Run]) -> None:
    """At a rung that comes before the end of a warm-up a trial is judged that has hardly begun."""
    longest = max(runs, key=lambda run: run.schedule.warmup_epochs / run.epochs)
    if own.looks is not None and longest.schedule.warmup_epochs > longest.epochs / own.looks:
        logger.warning(
            "schedule.warmup_epochs=%g: is longer than the first rung, after %.3g of %d epochs, where trials are "
            "judged that have hardly begun: shorten it, or lower rungs=",
            longest.schedule.warmup_epochs, longest.epochs / own.looks, longest.epochs,
        )  # fmt: skip


def gpus_of_a_worker(run: Run) -> dict[str, str]:
    """Where nobody says, for good: in another sitting a cluster that was scaled to zero would know of none."""
    gpus = resources_of_a_worker(run).get("GPU", 0.0)
    return {} if run.gpus_per_worker is not None else {"gpus_per_worker": f"{gpus:g}"}


def asked_of(
    own: Search,
    space: Space,
    fixed: Mapping[str, str],
    run: Run,
    *,
    track: bool,
    address: str | None,
    only_plan: bool,
) -> Asking:
    """With the cluster at hand."""
    asked, fixed = run, {**fixed, **gpus_of_a_worker(run)}
    each = cores(own, resources_of_a_worker(run).get("GPU", 0.0)) if run.cpus_per_worker is None else None
    run = run_of(space, {}, {**imposed(own), **fixed, **({} if each is None else {CORES: str(each)})})
    needed = resources_of_a_worker(run)
    check_room(asked, needed, word="workers_per_trial")
    if own.retrain_workers is not None:
        check_room(run.model_copy(update={"workers": own.retrain_workers}), needed, word="retrain_workers")
    concurrent = concurrency(own, needed, may_grow=not only_plan)
    uri = resolved_uri(run.tracking.uri) if track else None
    storage, model = absolute(run.storage), run.tracking.model
    fixed = {path: text for path, text in fixed.items() if path not in ("storage", "tracking.model", "name")}
    words, id_ = changed(Search(), own) | {"name": own.name}, secrets.token_hex(8)
    plan = Plan(id_, words, space.name, space.source, fixed, storage, concurrent, uri, None, model, {}, each)
    drawn = [space.words(draw) for draw in corners(space)]
    runs = [run_of(space, words, fixed) for words in drawn]
    largest, its_words = max(zip(runs, drawn, strict=True), key=lambda corner: corner[0].batch)
    rehearsal = _rehearsed(plan, space, its_words, address)
    check_batches(space, runs, rehearsal)
    check_rehearsal(own, runs, rehearsal)
    warn_of_warmups(own, runs)
    found = prospect(own, space, fixed, largest, rehearsal, concurrent, needed.get("GPU", 0.0))
    found["resources"] = ", ".join(f"{amount:g} {name}" for name, amount in needed.items())
    if (idle := idle_cores(own, needed, concurrent)) is not None:
        found["idle_cores"] = idle
    return Asking(plan, space, found)


def _rehearsed(plan: Plan, space: Space, drawn: Mapping[str, str], address: str | None) -> Rehearsal:
    """Of the largest batch that may be drawn, on the workers that a trial will have."""
    if REHEARSAL in plan.folder.names():  # of one that was killed in it
        plan.folder.remove(REHEARSAL)
    method, words = plan.of_trial(Record(0, {}, dict(drawn)))
    job = begun(method, {**words, "name": REHEARSAL, "storage": plan.folder.url}, False, address)
    try:
        job.folder.write(JOB, job.as_json().encode())
        with told_at(space, drawn):
            found = on_ray(job, rehearsed)
    finally:
        with suppress(OSError):
            plan.folder.remove(REHEARSAL)
    if found.pop("asked") is not None or not found:
        raise SystemExit(130)
    return Rehearsal(**found)
