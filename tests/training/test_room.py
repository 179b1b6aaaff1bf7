"""How many cores a worker takes by itself, and what no cluster can give."""

import pytest
import ray

from mim_ray import ray_room
from mim_ray.errors import Mistake
from mim_ray.methods import resolved
from mim_ray.ray_room import check_room, cores_of_a_worker


def there_are(monkeypatch: pytest.MonkeyPatch, *nodes: dict[str, float]) -> None:
    monkeypatch.setattr(ray, "nodes", lambda: [{"Alive": True, "Resources": node} for node in nodes])
    total = {
        name: sum(node.get(name, 0.0) for node in nodes) for name in {name for node in nodes for name in node}
    }
    monkeypatch.setattr(ray, "cluster_resources", lambda: total)
    monkeypatch.setattr(ray_room, "grows", lambda: False)


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
