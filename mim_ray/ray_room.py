"""What the workers of a run take, and whether a cluster has room for them or can grow to have it."""

import logging
import time
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import ray
from ray._raylet import GcsClient, PlacementGroupID  # type: ignore[attr-defined]
from ray.core.generated.autoscaler_pb2 import GetClusterStatusReply
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group
from ray.util.state import list_placement_groups

from mim_ray.errors import Failure, Mistake
from mim_ray.run import Run

logger = logging.getLogger("mim_ray")
ROOM_SECONDS = 60.0
"""How often a run without workers says what it waits for."""

GROWTH_SECONDS = 5.0
"""How often an elastic run looks for room itself, to have a checkpoint when it grows."""

ROOM_STAYS_SECONDS = 60.0
"""For so long it counts as seen: where others' work comes and goes, not every gap is worth a checkpoint."""

LOST_ROOM_SECONDS = 1800.0
"""How long it waits for nodes where no autoscaler brings them."""

Answer = TypeVar("Answer")
ANSWER_SECONDS = 30.0
"""How long an autoscaler may take to say what it makes of a request; it looks every few seconds."""


def resources_of_a_worker(run: Run) -> dict[str, float]:
    """What one worker takes; GPUs by themselves where the cluster has them."""
    there = ray.cluster_resources()
    gpus = run.gpus_per_worker
    if gpus is None:
        gpus = 1.0 if there.get("GPU") else 0.0
    cpus = run.cpus_per_worker
    if cpus is None:
        cpus = 1 if grows() else cores_of_a_worker(run.most_workers, gpus)
    needed: dict[str, float] = {"CPU": cpus} | ({"GPU": gpus} if gpus else {})
    for item in run.resources:
        name, _, amount = item.partition(":")
        try:
            needed[name] = float(amount or 1)
        except ValueError:
            raise Mistake(f"resources={item}: expected NAME:AMOUNT, as in a100:1") from None
    return needed


def cores_of_a_worker(workers: int, gpus: float) -> int:
    """The most that all of them can have, for each lives on one node."""
    cores = cores_of_nodes(gpus)
    for each in range(max(cores, default=1), 1, -1):
        if sum(have // each for have in cores) >= workers:
            return each
    return 1


def cores_of_nodes(gpus: float = 0.0) -> list[int]:
    """Of those that are there and have so many GPUs."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return [int(node.get("CPU", 0)) for node in nodes if node.get("GPU", 0) >= gpus]


def check_room(run: Run, needed: dict[str, float], word: str = "workers", way_out: str | None = None) -> None:
    """Refuses what the cluster could never give, for Ray would wait for ever; `word`: what the user calls it;
    `way_out`: where its words cannot be said anew."""
    least = run.least_workers
    if run.gpus_per_worker is None and not ray.cluster_resources().get("CPU") and grows():
        logger.warning("no node has come yet, so nothing is known of GPUs: if they will, say gpus_per_worker=1")
    if workers_that_fit(needed) >= least or (grows() and can_grow_to(least, needed)):
        return
    there = ray.cluster_resources()
    asked = ", ".join(f"{amount * least:g} {name}" for name, amount in needed.items())
    has = ", ".join(f"{there.get(name, 0):g} {name}" for name in needed)
    limit = "now, and cannot grow to that" if grows() else "at most"
    raise Mistake(
        f"{word}={run.workers}: {least} workers need {asked} and the cluster has {has} {limit}: "
        f"{way_out or f'lower {word}=, cpus_per_worker= or gpus_per_worker='}"
    )


def words_of_waiting(run: Run, needed: dict[str, float]) -> str:
    """What a run lacks whose workers are silent: room on the nodes that are there, or a place on them."""
    fit, free = workers_that_fit(needed), ray.available_resources()
    asked = ", ".join(f"{amount:g} {name}" for name, amount in needed.items())
    if fit < run.least_workers:
        return f"{run.name} waits for nodes: {fit} of its {run.least_workers} workers have room ({asked} each)"
    has = ", ".join(f"{free.get(name, 0):g} {name}" for name in needed)
    return f"{run.name} waits for its {run.workers} workers ({asked} each): {has} of the cluster is free"


def has_lost_its_room(run: Run, needed: dict[str, float]) -> bool:
    """Whether nodes lack that nobody will bring."""
    return workers_that_fit(needed) < run.least_workers and not grows()


def can_have_more_workers(run: Run, needed: dict[str, float], workers: int) -> bool:
    """In what nobody uses now, beside those that it has."""
    free = ray._private.state.available_resources_per_node()
    return workers < run.most_workers and _fitting(free.values(), needed) > 0


def workers_that_fit(needed: dict[str, float]) -> int:
    """On the nodes that are there, were they free."""
    return _fitting([node["Resources"] for node in ray.nodes() if node["Alive"]], needed)


def _fitting(nodes: Iterable[dict[str, float]], needed: dict[str, float]) -> int:
    asked = {name: amount for name, amount in needed.items() if amount > 0}
    return sum(int(min(node.get(name, 0) // amount for name, amount in asked.items())) for node in nodes)


def grows() -> bool:
    """Whether an autoscaler looks after the cluster, of Ray's second kind (that of `ray up` and KubeRay)."""
    return bool(_status().autoscaling_state.autoscaler_state_version)


def can_grow_to(workers: int, needed: dict[str, float]) -> bool:
    """As the autoscaler says itself, once it has looked at a request: it calls it infeasible, or does not."""
    request = placement_group([needed] * workers)
    name, asked = request.id.hex(), _status().cluster_resource_state.cluster_resource_state_version
    deadline = time.monotonic() + ANSWER_SECONDS
    try:
        while time.monotonic() < deadline:
            answer = _status().autoscaling_state
            if any(name in refused.details for refused in answer.infeasible_gang_resource_requests):
                return False
            if answer.last_seen_cluster_resource_state_version > asked or request.wait(0.3):
                return True
    finally:
        remove_placement_group(request)
    return True  # busy with others, perhaps: what it can give is seen when it is asked for


class Watch:
    """Looks at the cluster now and then: what a silent run waits for, and whether an elastic one could grow.

    It gives up where nobody will bring what is waited for.
    """

    def __init__(self, run: Run, needed: dict[str, float]) -> None:
        self._run, self._needed, self._heard = run, needed, -1
        self._news_at = self._said_at = self._looked_at = time.monotonic()
        self._room_at, self._room_beside = 0.0, 0

    def look(self, heard: int) -> None:
        """`heard`: how often workers have been heard of."""
        now = time.monotonic()
        if heard != self._heard:
            self._heard, self._news_at = heard, now
        if min(now - self._news_at, now - self._said_at) < ROOM_SECONDS:
            return
        self._said_at = now
        free_what_the_dead_hold()
        words = _answered(words_of_waiting, self._run, self._needed)
        if words is None:
            return
        if now - self._news_at > LOST_ROOM_SECONDS and _answered(has_lost_its_room, self._run, self._needed):
            raise Failure(f"{words}: it goes on from its last checkpoint with --resume {self._run.name}")
        logger.warning(words)

    def sees_room_for_more_than(self, workers: int) -> bool | None:
        """None where it was not looked at."""
        now = time.monotonic()
        if self._run.least_workers == self._run.most_workers or now - self._looked_at < GROWTH_SECONDS:
            return None
        self._looked_at = now
        seen = _answered(can_have_more_workers, self._run, self._needed, workers)
        if seen:
            self._room_at, self._room_beside = now, workers
        stays = workers == self._room_beside and now - self._room_at < ROOM_STAYS_SECONDS
        return stays if seen is False else seen


def _answered(question: Callable[..., Answer], *of: Any) -> Answer | None:
    """None where the cluster's control store does not answer: a run does not end by that, and asks again."""
    try:
        return question(*of)
    except Exception as error:
        logger.debug("the cluster does not answer: %s", error)
        return None


def free_what_the_dead_hold() -> None:
    """Placement groups of jobs that have ended: Ray keeps one for ever that came after its driver was lost."""
    _answered(_free)


def _free() -> None:
    ended = {job["JobID"] for job in ray._private.state.jobs() if job["IsDead"]}
    if not ended:
        return
    for group in list_placement_groups(detail=True, limit=10_000):
        if group.creator_job_id in ended and group.state != "REMOVED" and not group.is_detached:
            remove_placement_group(PlacementGroup(PlacementGroupID(bytes.fromhex(group.placement_group_id))))


def _status() -> Any:
    """What the cluster is, and what its autoscaler has last said."""
    reply = GetClusterStatusReply()
    reply.ParseFromString(GcsClient(ray.get_runtime_context().gcs_address).get_cluster_status(timeout_s=10))
    return reply
