"""A search that goes on: what may be said anew, and what a cluster that is made up has room for."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import ray

from mim_ray import ray_room
from mim_ray.errors import Mistake
from mim_ray.search import again, prospect
from mim_ray.search.again import fitted, of_any_trial, with_trials
from mim_ray.search.answer import ANSWER
from mim_ray.search.memory import Memory
from mim_ray.search.plan import Plan, read_plan
from tests.search.played import plan_at, record

There = Callable[..., None]


@pytest.fixture
def there_are(monkeypatch: pytest.MonkeyPatch) -> There:
    def nodes(*cores: float, grows: bool = False) -> None:
        monkeypatch.setattr(ray, "nodes", lambda: [{"Alive": True, "Resources": {"CPU": each}} for each in cores])
        monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": sum(cores)})
        for room in (ray_room, prospect, again):
            monkeypatch.setattr(room, "grows", lambda: grows)
        for room in (ray_room, prospect):
            monkeypatch.setattr(room, "can_grow_to", lambda *_: True)

    return nodes


def begun(folder: Path, cores: int | None = 16, **words: Any) -> Plan:
    return plan_at(folder, **words)._replace(cores=cores, concurrent=1)


@pytest.mark.parametrize(
    ("nodes", "grows", "anew", "cores", "together"),
    [
        ([8], False, {}, 8, 1),
        ([32], False, {}, 32, 1),
        ([16], False, {"concurrent": "4"}, 4, 4),
        ([8], False, {"cpus_per_worker": "2"}, 2, 4),
        ([2], True, {"concurrent": "2"}, 16, 2),
    ],
)
def test_what_nobody_said_of_cores_is_shared_out_anew(
    tmp_path: Path,
    there_are: There,
    nodes: list[float],
    grows: bool,
    anew: dict[str, str],
    cores: int,
    together: int,
) -> None:
    """But where an autoscaler brings the nodes back that have left."""
    there_are(*nodes, grows=grows)
    plan = fitted(begun(tmp_path), anew)
    assert (of_any_trial(plan).cpus_per_worker, plan.concurrent) == (cores, together)


def test_cores_that_were_said_can_be_said_anew(tmp_path: Path, there_are: There) -> None:
    plan = begun(tmp_path, cores=None)
    plan = plan._replace(fixed={**plan.fixed, "cpus_per_worker": "16"})
    there_are(8.0)
    with pytest.raises(
        Mistake, match=r"^workers_per_trial=1: .*: go on where .*, or with a lower cpus_per_worker=$"
    ):
        fitted(plan, {})
    assert of_any_trial(fitted(plan, {"cpus_per_worker": "8"})).cpus_per_worker == 8


def test_no_word_is_advised_that_would_not_help(tmp_path: Path, there_are: There) -> None:
    there_are(2.0)
    with pytest.raises(Mistake, match=r"^workers_per_trial=4: 4 workers need 4 CPU .*: go on where [a-z ]*$"):
        fitted(begun(tmp_path, workers_per_trial=4), {})


def test_trials_may_be_said_anew_for_good(tmp_path: Path) -> None:
    plan = begun(tmp_path, trials=20)
    memory = Memory(plan.folder)
    first, *_ = [memory.add({}, {}) for _ in range(3)]
    memory.add({}, {}, seed=1, of=first.number)
    for trials in (3, 20, 40):
        assert with_trials(plan, str(trials)).search.trials == trials
    assert read_plan(plan.folder).search.trials == 40
    with pytest.raises(Mistake, match=r"^trials=2: 3 were begun: expected 3, to end with these, or more"):
        with_trials(plan, "2")
    with pytest.raises(Mistake, match=r"^trials=few: expected"):
        with_trials(plan, "few")


def test_a_grid_and_a_search_at_its_end_have_the_trials_that_they_have(tmp_path: Path) -> None:
    with pytest.raises(Mistake, match=r"^trials=9: a grid has as many trials as points, 8: leave it out"):
        with_trials(begun(tmp_path, searcher="grid", points=2, trials=8), "9")
    plan = begun(tmp_path, trials=1)
    Memory(plan.folder).keep(record(0, 0.5))
    plan.folder.write(ANSWER, b"{}")
    with pytest.raises(Mistake, match=r"^trials=9: played has come to its end with 1: leave it out"):
        with_trials(plan, "9")
    assert with_trials(plan, "1") == plan
