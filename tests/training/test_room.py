"""How many cores a worker takes by itself, and what no cluster can give."""

import time

import pytest
import ray

from mim_ray import ray_room
from mim_ray.errors import Failure, Mistake
from mim_ray.methods import resolved
from mim_ray.ray_room import can_have_more_workers, check_room, cores_of_a_worker, words_of_waiting


def there_are(monkeypatch: pytest.MonkeyPatch, *nodes: dict[str, float]) -> None:
    monkeypatch.setattr(ray, "nodes", lambda: [{"Alive": True, "Resources": node} for node in nodes])
    total = {
        name: sum(node.get(name, 0.0) for node in nodes) for name in {name for node in nodes for name in node}
    }
    monkeypatch.setattr(ray, "cluster_resources", lambda: total)
    monkeypatch.setattr(ray_room, "grows", lambda: False)


def free_are(monkeypatch: pytest.MonkeyPatch, *nodes: dict[str, float]) -> None:
    free = dict(enumerate(nodes))
    monkeypatch.setattr(ray._private.state, "available_resources_per_node", lambda: free)


@pytest.mark.parametrize(
    ("cores", "workers", "each"),
    [
        ((2,), 2, 1),
        ((8,), 2, 4),
        ((8, 8, 8), 2, 8),
        ((8, 8), 1, 8),
        ((8, 8), 3, 4),
        ((4, 32), 2, 16),
        ((2,), 9, 1),
    ],
)
def test_a_worker_takes_what_one_node_has(
    cores: tuple[float, ...], workers: int, each: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    there_are(monkeypatch, *({"CPU": count} for count in cores))
    assert cores_of_a_worker(workers, 0) == each


def test_nodes_without_a_gpu_do_not_count_for_workers_that_need_one(monkeypatch: pytest.MonkeyPatch) -> None:
    there_are(monkeypatch, {"CPU": 64}, {"CPU": 16, "GPU": 4})
    assert cores_of_a_worker(4, 1) == 4


def test_what_a_cluster_cannot_give_is_refused_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    there_are(monkeypatch, {"CPU": 2})
    run = resolved("mae", {"workers": 200})
    with pytest.raises(Mistake, match=r"^workers=200: 200 workers need 200 CPU and the cluster has 2 CPU at most"):
        check_room(run, {"CPU": 1})
    check_room(resolved("mae", {"workers": 2}), {"CPU": 1})


def test_an_elastic_run_has_a_checkpoint_made_when_it_could_grow(monkeypatch: pytest.MonkeyPatch) -> None:
    run = resolved("mae", {"workers": "1:3", "cpus_per_worker": 1})
    for free, workers, more in (0, 1, False), (1, 1, True), (0, 3, False), (6, 3, False), (7, 2, True):
        free_are(monkeypatch, *({"CPU": 1.0} for _ in range(free)))
        assert can_have_more_workers(run, {"CPU": 1}, workers) is more
    free_are(monkeypatch, {"CPU": 1.0, "GPU": 1.0}, {"memory": 1e9})
    assert not can_have_more_workers(run, {"CPU": 2}, 1)


def test_what_others_use_is_no_room_to_grow_until_they_leave(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that the checkpoint is made then, and not at the start; nor again for each gap between their tasks."""
    there_are(monkeypatch, {"CPU": 1.0}, {"CPU": 1.0})
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    watch = ray_room.Watch(resolved("mae", {"workers": "1:2"}), {"CPU": 1.0})
    told = []
    for now[0], free in (10, 0.0), (20, 0.0), (30, 1.0), (40, 0.0), (50, 1.0), (60, 0.0), (120, 0.0), (130, 1.0):
        free_are(monkeypatch, {"CPU": free})
        told.append(watch.sees_room_for_more_than(1))
    assert told == [False, False, True, True, True, True, False, True]
    now[0] = 140
    assert watch.sees_room_for_more_than(2) is False  # it has grown


def test_a_run_says_what_it_waits_for(monkeypatch: pytest.MonkeyPatch) -> None:
    run = resolved("mae", {"name": "first", "workers": 2, "cpus_per_worker": 2})
    monkeypatch.setattr(ray, "available_resources", lambda: {"CPU": 1.0})
    there_are(monkeypatch, {"CPU": 2})
    needed = {"CPU": 2.0}
    assert words_of_waiting(run, needed) == "first waits for nodes: 1 of its 2 workers have room (2 CPU each)"
    there_are(monkeypatch, {"CPU": 4})
    place = "first waits for its 2 workers (2 CPU each): 1 CPU of the cluster is free"
    assert words_of_waiting(run, needed) == place


def test_what_a_worker_takes_is_what_the_run_began_with(monkeypatch: pytest.MonkeyPatch) -> None:
    """A lost node leaves fewer cores to share, and Ray still asks for what it was told."""
    run = resolved("mae", {"name": "first", "workers": 2})
    there_are(monkeypatch, {"CPU": 8}, {"CPU": 8})
    monkeypatch.setattr(ray, "available_resources", lambda: {"CPU": 8.0})
    watch, now = ray_room.Watch(run, ray_room.resources_of_a_worker(run)), [time.monotonic()]
    there_are(monkeypatch, {"CPU": 8})
    watch.look(1)
    now[0] += 4000
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    with pytest.raises(Failure, match=r"waits for nodes: 1 of its 2 workers have room \(8 CPU each\)"):
        watch.look(1)


def test_a_control_store_that_does_not_answer_ends_no_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def away() -> None:
        raise RuntimeError("GCS timed out")

    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    watch = ray_room.Watch(resolved("mae", {"workers": "1:2"}), {"CPU": 1.0})
    monkeypatch.setattr(ray, "nodes", away)
    monkeypatch.setattr(ray._private.state, "available_resources_per_node", away)
    for now[0] in (100, 4000):
        watch.look(1)
        assert watch.sees_room_for_more_than(1) is None


def test_a_run_whose_nodes_nobody_brings_back_is_given_up(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    run = resolved("mae", {"name": "first", "workers": 2, "cpus_per_worker": 2})
    there_are(monkeypatch, {"CPU": 2})
    monkeypatch.setattr(ray, "available_resources", lambda: {"CPU": 1.0})
    watch = ray_room.Watch(run, {"CPU": 2.0})
    for now[0] in range(0, 1800, 30):
        watch.look(7)
    assert 25 <= caplog.text.count("first waits for nodes") <= 30
    now[0] = 1900
    with pytest.raises(
        Failure, match=r"first waits for nodes.*: it goes on from its last checkpoint with --resume"
    ):
        watch.look(7)
    watch.look(8)
