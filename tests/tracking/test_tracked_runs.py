"""Runs: all that is known of them at their start, going on after a stop, and words for what is not possible."""

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import mlflow
import pytest
from mlflow import MlflowClient

from mim_ray.errors import Failure, without_secrets
from mim_ray.tracking.run import (
    CUT,
    LONGEST_VALUE,
    Dataset,
    create_run,
    end_run,
    find_run,
    reopen_run,
    resolved_uri,
)

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # MLflow's own

NOBODY = "http://user:hunter2@127.0.0.1:9/?token=hunter2"


def test_the_address_is_what_was_given_or_set_or_a_file_of_this_folder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert resolved_uri() == f"sqlite:///{tmp_path}/mlflow.db"
    assert resolved_uri("sqlite:///runs.db") == f"sqlite:///{tmp_path}/runs.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://there")
    assert resolved_uri() == resolved_uri("") == "http://there"
    assert resolved_uri("http://here") == "http://here"


def test_a_run_knows_its_configuration_and_its_data(database: str) -> None:
    params = {f"method.field{i}": str(i) for i in range(250)} | {"name": "", "long": "x" * 10_000}
    dataset = Dataset("https://me:hunter2@far/sets/train.beton?key=hunter2", "5" * 64)
    run_id = create_run(database, "pretraining", "first", params, {"mim_ray.method": "mae"}, dataset)
    client = MlflowClient(database)
    run = client.get_run(run_id)
    assert (run.info.status, run.info.run_name) == ("RUNNING", "first")
    assert run.data.tags["mim_ray.method"] == "mae"
    assert run.data.params == params | {"long": "x" * (LONGEST_VALUE - len(CUT)) + CUT}
    config = client.download_artifacts(run_id, "config.json")
    assert json.loads(Path(config).read_text()) == params
    assert run.inputs is not None
    [used] = run.inputs.dataset_inputs
    assert (used.dataset.name, used.dataset.digest) == ("train.beton", "5" * 36)
    assert mlflow.data.get_source(used).to_dict() == {"uri": "https://far/sets/train.beton"}
    assert client.get_experiment(run.info.experiment_id).name == "pretraining"


def test_creators_at_the_same_time_share_one_experiment(database: str) -> None:
    create_run(database, "made before", "run", {}, {})

    def create(number: int) -> str:
        return create_run(database, "made by all", str(number), {}, {})

    with ThreadPoolExecutor(4) as pool:
        runs = [MlflowClient(database).get_run(run_id) for run_id in pool.map(create, range(4))]
    assert len({run.info.experiment_id for run in runs}) == 1
    assert sorted(run.info.run_name for run in runs) == ["0", "1", "2", "3"]


def test_a_run_that_cannot_be_described_is_marked_failed(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(MlflowClient, "log_dict", full)
    with pytest.raises(Failure, match="No space left on device"):
        create_run(database, "full disks", "unlucky", {}, {})
    found = find_run(database, "unlucky")
    assert found is not None
    assert found["status"] == "FAILED"


def test_a_run_ends_and_is_opened_again(database: str, new_run: Callable[[str], str]) -> None:
    run_id = new_run(database)
    end_run(database, run_id, "KILLED")
    assert MlflowClient(database).get_run(run_id).info.status == "KILLED"
    reopen_run(database, run_id)
    assert MlflowClient(database).get_run(run_id).info.status == "RUNNING"


def test_a_run_is_found_by_id_and_by_name(database: str) -> None:
    older, newer = (create_run(database, place, "Jo's run", {"seed": "1"}, {"who": "me"}) for place in ("a", "b"))
    by_name, by_id = find_run(database, "Jo's run"), find_run(database, older)
    assert by_name is not None
    assert by_id is not None
    assert (by_name["run_id"], by_id["run_id"]) == (newer, older)
    assert (by_id["name"], by_id["params"], by_id["tags"]["who"]) == ("Jo's run", {"seed": "1"}, "me")
    MlflowClient(database).delete_run(newer)
    assert find_run(database, newer) is None
    assert find_run(database, "nobody's run") is None


def test_what_is_gone_is_refused_in_words(database: str, new_run: Callable[[str], str]) -> None:
    unknown = "0" * 32
    with pytest.raises(Failure, match=f"has no run {unknown}: name the server that has it by tracking.uri="):
        reopen_run(database, unknown)
    deleted = new_run(database)
    MlflowClient(database).delete_run(deleted)
    with pytest.raises(Failure, match=f"was deleted at .*`mlflow runs restore --run-id {deleted}`"):
        reopen_run(database, deleted)
    home = MlflowClient(database).create_experiment("left")
    MlflowClient(database).delete_experiment(home)
    with pytest.raises(Failure, match=r"experiment 'left' was deleted .*or choose another name"):
        create_run(database, "left", "run", {}, {})


@pytest.mark.parametrize(
    "call",
    [
        lambda: create_run(NOBODY, "tests", "run", {}, {}),
        lambda: reopen_run(NOBODY, "0" * 32),
        lambda: end_run(NOBODY, "0" * 32, "FINISHED"),
        lambda: find_run(NOBODY, "run"),
    ],
)
def test_a_server_that_does_not_answer_is_one_clear_line(call: Callable[[], Any]) -> None:
    with pytest.raises(Failure) as failure:
        call()
    assert str(failure.value) == (
        "MLflow at http://127.0.0.1:9/ cannot be reached (Connection refused): "
        "start `mlflow server` there, or name another one by MLFLOW_TRACKING_URI, tracking.uri= or --uri"
    )


def test_an_address_of_an_unknown_kind_is_refused() -> None:
    with pytest.raises(Failure, match="MLflow at nothing://nobody refuses") as failure:
        create_run("nothing://user:hunter2@nobody", "tests", "run", {}, {})
    assert "hunter2" not in str(failure.value)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("http://me:a@b/c@host:5000/x?y=z is away", "http://host:5000/x is away"),
        ("postgresql://me:pw@db/runs", "postgresql://db/runs"),
        ("sqlite:///mlflow.db", "sqlite:///mlflow.db"),
    ],
)
def test_secrets_are_not_shown(text: str, shown: str) -> None:
    assert without_secrets(text) == shown
