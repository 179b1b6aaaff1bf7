"""The search's own run in MLflow."""

import json
from pathlib import Path

import pytest
from mlflow import MlflowClient

from mim_ray.search.home import MODEL_TAG, PROMOTED_TAG, Home, domains_of, with_home
from mim_ray.search.memory import Memory, State
from mim_ray.search.plan import Plan, read_plan
from mim_ray.search.space import of_source, paths_of
from mim_ray.search.trial import STATE_TAG, TRIAL_TAG
from mim_ray.spaces import space_files
from mim_ray.tracking.run import create_run, end_run, tag_run
from tests.databases import fresh
from tests.search.played import look, plan_at

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # MLflow's own


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    return plan_at(tmp_path)._replace(tracking_uri=fresh(tmp_path))


def homed(plan: Plan) -> Plan:
    return with_home(plan, "mim_ray")


def test_a_name_that_comes_again_adopts_nobodys_run(plan: Plan, tmp_path: Path) -> None:
    first = homed(plan)
    other = homed(plan._replace(id="1", storage=str(tmp_path / "elsewhere")))
    assert first.run_id != other.run_id
    assert read_plan(first.folder).run_id == first.run_id


def test_one_that_was_half_made_is_made_anew(plan: Plan) -> None:
    half, whole = homed(plan), homed(plan)
    client = MlflowClient(whole.uri)
    assert client.get_run(str(half.run_id)).info.lifecycle_stage == "deleted"
    assert client.get_run(str(whole.run_id)).data.params["search.trials"] == "20"


@pytest.mark.parametrize("name", space_files())
def test_every_space_is_written_down(plan: Plan, name: str) -> None:
    plan = plan._replace(space=name, source=space_files()[name].read_text(), prospect={"trials": 3})
    client, found = MlflowClient(plan.uri), homed(plan)
    run = client.get_run(str(found.run_id))
    paths = {path for one in plan.questions().domains for path in paths_of(one)}
    assert {name for name in run.data.params if name.startswith("space.")} == {f"space.{path}" for path in paths}
    assert json.loads(Path(client.download_artifacts(run.info.run_id, "plan.json")).read_text()) == {"trials": 3}


def test_a_path_with_cases_is_told_with_all_of_them() -> None:
    source = """
from ray import tune
METHOD = "mae"
SPACE = {
    "encoder": tune.choice(["vit-tiny", "vit-large"]),
    "method.encoder.depth": {
        ("encoder", "vit-tiny"): tune.randint(4, 13), ("encoder", "vit-large"): tune.randint(8, 25),
    },
}
"""
    told = domains_of(of_source("cases", source, {}))["method.encoder.depth"].split("; ")
    assert [case.partition(" where ")[2] for case in told] == ["encoder=vit-tiny", "encoder=vit-large"]


def test_trials_of_whom_nobody_said_how_they_ended_are_closed(plan: Plan) -> None:
    plan = homed(plan)
    assert plan.tracking_uri is not None
    assert plan.run_id is not None
    memory = Memory(plan.folder)
    for number in range(4):
        tags = {"mlflow.parentRunId": plan.run_id, TRIAL_TAG: str(number)}
        record = memory.add({}, {})
        record.run_id = create_run(plan.tracking_uri, "mim_ray", f"trial-{number}", {}, tags)
        record.see(look(9, 0.1 * number))
    states: tuple[State, ...] = ("finished", "stopped", "running", "running")
    for record, state in zip(memory, states, strict=True):
        record.state = state
    tag_run(plan.tracking_uri, str(memory.records[3].run_id), {STATE_TAG: "stopped"})
    end_run(plan.tracking_uri, str(memory.records[3].run_id), "FINISHED")
    home = Home(plan)
    home.open(memory)
    home.tell(memory)
    home.close([], {"eval/knn_top1": 0.2}, "KILLED", memory)
    client = MlflowClient(plan.tracking_uri)
    runs = [client.get_run(str(record.run_id)) for record in memory]
    assert [run.info.status for run in runs] == ["FINISHED", "KILLED", "KILLED", "FINISHED"]
    assert [run.data.tags[STATE_TAG] for run in runs] == ["finished", "stopped", "interrupted", "interrupted"]
    parent = client.get_run(plan.run_id)
    assert (parent.info.status, parent.data.metrics["eval/knn_top1"]) == ("KILLED", 0.2)


@pytest.mark.parametrize("end", [{"alias": "champion", "previous": None}, {"refusal": "found/2 is not better"}])
def test_what_became_of_the_winner_is_told(plan: Plan, end: dict[str, str | None]) -> None:
    plan = homed(plan)
    Home(plan).crown({"model": "found/2", "steps": 8, "judged": {"eval/top1": 0.75}, **end})
    data = MlflowClient(plan.uri).get_run(str(plan.run_id)).data
    assert (data.metrics["winner/eval/top1"], data.metrics["winner/steps"]) == (0.75, 8)
    assert (data.tags[MODEL_TAG], data.tags[PROMOTED_TAG]) == ("found/2", end.get("alias") or end["refusal"])
