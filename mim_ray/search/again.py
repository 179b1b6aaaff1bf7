"""A search that goes on: what may be said anew, and what the cluster of now has room for."""

import logging
from collections.abc import Mapping

from mim_ray.config import resolve
from mim_ray.errors import Mistake
from mim_ray.methods import resolved
from mim_ray.ray_room import check_room, grows, resources_of_a_worker, workers_that_fit
from mim_ray.run import Run
from mim_ray.search.answer import ANSWER
from mim_ray.search.asking import sized
from mim_ray.search.memory import Memory, Record
from mim_ray.search.plan import CORES, Plan, Search
from mim_ray.search.prospect import concurrency, cores, still_fitting

logger = logging.getLogger("mim_ray")
ANEW = ("concurrent", CORES, "trials")
"""Words that may be said anew: the first two for a sitting, trials for good."""


def with_trials(plan: Plan, trials: str | None) -> Plan:
    """As many as are asked for now, those that were begun among them; written down."""
    if trials is None:
        return plan
    own, before = resolve(Search(), {**plan.words, "trials": trials}), plan.search.trials
    if own.trials == before:
        return plan
    if plan.folder.has(ANSWER):
        raise Mistake(f"trials={trials}: {plan.name} has come to its end with {before}: leave it out")
    if own.searcher == "grid":
        raise Mistake(f"trials={trials}: a grid has as many trials as points, {before}: leave it out")
    if own.trials < (begun := begun_in(plan)):
        raise Mistake(f"trials={trials}: {begun} were begun: expected {begun}, to end with these, or more")
    words = {**plan.words, "trials": str(sized(own, plan.questions()).trials)}
    plan = plan._replace(words=words)
    plan.write()
    return plan


def begun_in(plan: Plan) -> int:
    return sum(record.of is None for record in Memory(plan.folder))


def fitted(plan: Plan, anew: Mapping[str, str]) -> Plan:
    """As many trials at a time, and as many cores of a worker, as there is room for now, or as are said now."""
    said = {path: anew[path] for path in ("concurrent",) if path in anew}
    plan = plan._replace(words={**plan.words, **said})
    if CORES in anew:
        plan = plan._replace(fixed={**plan.fixed, CORES: anew[CORES]}, cores=None)
    needed = resources_of_a_worker(of_any_trial(plan))
    if plan.cores is not None and not grows():  # or nodes that have left will come again
        plan = plan._replace(cores=cores(plan.search, needed.get("GPU", 0.0)))
        needed = resources_of_a_worker(of_any_trial(plan))
    check_room(of_any_trial(plan), needed, "workers_per_trial", _way_out(plan.search, needed))
    if said:
        return plan._replace(concurrent=concurrency(plan.search, needed))
    now = still_fitting(plan.search, needed)
    if now < plan.concurrent:
        logger.warning("the cluster has room for %d trials at a time by now, and had for %d", now, plan.concurrent)
    return plan._replace(concurrent=now)


def of_any_trial(plan: Plan) -> Run:
    return resolved(*plan.of_trial(Record(0, {}, {})))


def _way_out(own: Search, needed: Mapping[str, float]) -> str:
    """What can be said of workers that a cluster has no room for, where all other words stay."""
    fewer = workers_that_fit({**needed, "CPU": 1.0}) >= own.workers_per_trial
    return "go on where there is room for them" + ", or with a lower cpus_per_worker=" * fewer
