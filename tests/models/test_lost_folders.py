"""A run whose folder is lost, old or elsewhere goes on from what MLflow has."""

import json
import logging
import shutil
from pathlib import Path

import pytest
from mlflow import MlflowClient

import mim_ray
from tests.models.runs import trained

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # MLflow's own


def test_a_run_goes_on_from_mlflow_where_its_folder_is_lost(here: Path) -> None:
    whole = trained("whole", eval__every_epochs=None)
    cut = trained("lost", eval__every_epochs=None, checkpoint__to_mlflow=True)
    assert cut["weights_sha256"] == whole["weights_sha256"]
    shutil.rmtree(here / "runs" / "lost")
    for slot in ("a", "b"):  # as if it had been lost before its end
        state = next(here.glob(f"mlruns/*/{cut['run_id']}/artifacts/checkpoints/{slot}/state.json"))
        if json.loads(state.read_text())["step"] == 10:
            shutil.rmtree(state.parent)
    again = mim_ray.train(resume="lost")
    assert again["images_per_second"] > 0
    assert again["weights_sha256"] == whole["weights_sha256"]
    assert again["run_id"] == cut["run_id"]
    client = MlflowClient(f"sqlite:///{here}/mlflow.db")
    history = client.get_metric_history(cut["run_id"], "train/loss")
    assert [point.step for point in history] == [2, 4, 6, 8, 10]


def test_a_run_whose_checkpoints_are_lost_goes_on_from_those_of_mlflow(
    here: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cut = trained("lost", eval__every_epochs=None, checkpoint__to_mlflow=True)
    shutil.rmtree(here / "runs" / "lost" / "checkpoints")
    again = mim_ray.train(resume="lost")
    assert again["weights_sha256"] == cut["weights_sha256"]
    assert "has no checkpoint" not in caplog.text
    alone = trained("alone", eval__every_epochs=None, tracking__every_steps=2)
    shutil.rmtree(here / "runs" / "alone" / "checkpoints")
    assert mim_ray.train(resume="alone")["weights_sha256"] == alone["weights_sha256"]
    assert "has no checkpoint: the run begins at step 0" in caplog.text


def test_a_folder_that_is_older_than_what_mlflow_has_goes_on_from_there(
    here: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As one that was restored from a backup."""
    caplog.set_level(logging.INFO, "mim_ray")
    cut = trained("old", eval__every_epochs=None, checkpoint__to_mlflow=True, checkpoint__keep=9)
    for step in (8, 10):
        shutil.rmtree(here / "runs" / "old" / "checkpoints" / f"step-{step:09}")
    again = mim_ray.train(resume="old")
    assert again["weights_sha256"] == cut["weights_sha256"]
    assert "step-000000010 has come from MLflow" in caplog.text
    caplog.clear()
    assert mim_ray.train(resume="old")["weights_sha256"] == cut["weights_sha256"]
    assert "has come from MLflow" not in caplog.text


def test_a_run_that_has_another_name_in_mlflow_is_found_by_it(here: Path) -> None:
    cut = trained("begun", eval__every_epochs=None, checkpoint__to_mlflow=True)
    MlflowClient(f"sqlite:///{here}/mlflow.db").update_run(cut["run_id"], name="renamed")
    for gone in (False, True):
        if gone:
            shutil.rmtree(here / "runs" / "begun")
        again = mim_ray.train(resume="renamed")
        assert (again["name"], again["weights_sha256"]) == ("begun", cut["weights_sha256"])


def test_a_run_that_was_moved_goes_on_where_it_lies(here: Path) -> None:
    whole = trained("whole", eval__every_epochs=None)
    trained("moved", eval__every_epochs=None)
    (here / "elsewhere").mkdir()
    shutil.move(here / "runs" / "moved", here / "elsewhere" / "moved")
    newest = here / "elsewhere" / "moved" / "checkpoints" / "step-000000010"
    shutil.rmtree(newest)
    again = mim_ray.train(resume="moved", storage="elsewhere")
    assert again["weights_sha256"] == whole["weights_sha256"]
    assert Path(again["checkpoint"]) == newest
    assert not (here / "runs" / "moved").exists()
