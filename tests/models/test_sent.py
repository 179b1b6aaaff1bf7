"""What comes to MLflow of a run: its best model, the one it ends with, its checkpoints."""

import json
import threading
from pathlib import Path

import pytest
import torch
from mlflow import MlflowClient

import mim_ray
from mim_ray import launch
from mim_ray.errors import Failure, Mistake
from mim_ray.models import load
from mim_ray.storage import Folder
from mim_ray.tracking.journal import Journal
from mim_ray.tracking.run import find_run, resolved_uri
from mim_ray.tracking.sender import Sender
from mim_ray.tracking.spool import Spool
from mim_ray.training import logbook
from mim_ray.training.apart import Apart
from mim_ray.training.best import Best
from mim_ray.training.meters import Row
from mim_ray.training.reporter import Reporter
from tests.models.runs import trained

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # MLflow's own


def test_the_last_checkpoint_comes_to_mlflow_though_those_before_it_were_late(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Journal, "has_unsent_files", lambda *_: True)
    late = trained("late", eval__every_epochs=None, checkpoint__to_mlflow=True)
    (state,) = here.glob(f"mlruns/*/{late['run_id']}/artifacts/checkpoints/*/state.json")
    assert json.loads(state.read_text())["step"] == 10


@pytest.mark.usefixtures("here")
def test_the_best_of_a_run_that_was_cut_is_sent_when_it_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        logbook, "bettered", lambda best, _run, _found, done, by: Best(1.0, 4, by) if done == 4 else best
    )
    numbers = Reporter.numbers

    def interrupted(self: Reporter, step: int, row: Row) -> None:
        if step == 6:
            raise KeyboardInterrupt
        numbers(self, step, row)

    with monkeypatch.context() as cut:
        cut.setattr(Reporter, "_send_best", lambda _: None)
        cut.setattr(Reporter, "numbers", interrupted)
        with pytest.raises(KeyboardInterrupt):
            trained("first")
    with pytest.raises(Mistake, match="no encoder yet"):
        load("first/best")
    assert mim_ray.train(resume="first")["best"].endswith("step-000000004")
    assert load("first/best").card.steps == 4


@pytest.mark.usefixtures("here")
def test_a_model_that_could_not_be_kept_is_not_registered(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    keep = Spool.add_file

    def refuse_models(self: Spool, path: Path, name: str, to: str) -> None:
        if to.startswith(("encoder", "model", "best")):
            raise Failure(f"{path} cannot be copied: the disk is full")
        keep(self, path, name, to)

    with monkeypatch.context() as full:
        full.setattr(Spool, "add_file", refuse_models)
        found = trained("first", tracking__model="mim-encoder")
    assert found["unsent"] == 1
    assert "model" not in found
    assert "the model that the run ends with is not sent to MLflow" in caplog.text
    assert mim_ray.train(resume="first")["model"] == "mim-encoder/1"
    assert load("mim-encoder/1").card.steps == 10


def refuse(*_: object) -> None:
    raise Failure("MLflow is away")


@pytest.mark.usefixtures("here")
def test_a_run_that_ended_early_and_is_trained_further_has_the_later_model_in_mlflow(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with monkeypatch.context() as patience:
        patience.setattr(logbook, "waited_enough", lambda _best, _run, _steps, done: done >= 4)
        assert trained("run", tracking__model="mim-encoder")["steps"] == 4
    assert load("run").card.steps == 4
    with monkeypatch.context() as away:  # in the moment in which MLflow would be told of the new files
        away.setattr(launch, "tag_run", refuse)
        further = mim_ray.train(resume="run")
    assert (further["steps"], further["unsent"]) == (10, 0)
    with pytest.raises(Failure, match="its files are not as they were logged"):
        load("run")
    further = mim_ray.train(resume="run")
    assert load("run").card.steps == 10
    assert further["model"] == "mim-encoder/1"
    assert load("mim-encoder/1").card.steps == 10


@pytest.mark.usefixtures("here")
def test_the_best_model_is_made_beside_the_training_which_draws_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    words = {"method__encoder__drop_path": 0.3, "checkpoint__every_steps": None}
    monkeypatch.setattr(logbook, "bettered", lambda _best, _run, _found, done, by: Best(float(done), done, by))
    made, model = [], Reporter._model

    def seen(self: Reporter, checkpoint: Folder, below: str) -> None:
        made.append((below, threading.current_thread().name))
        model(self, checkpoint, below)

    with monkeypatch.context() as watched:
        watched.setattr(Reporter, "_model", seen)
        beside = trained("beside", **words)
    assert ("best/a/", "checkpoint") in made
    assert ("", "MainThread") in made
    alone = trained("alone", **words, tracking__uri="sqlite:///other.db", eval__every_epochs=None)
    assert beside["weights_sha256"] == alone["weights_sha256"]


@pytest.mark.usefixtures("here")
def test_a_run_that_fails_tells_mlflow_what_led_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = Reporter.numbers

    def broken(self: Reporter, step: int, row: Row) -> None:
        numbers(self, step, row)
        if step == 6:
            raise Failure("the machine is on fire")

    monkeypatch.setattr(Reporter, "numbers", broken)
    monkeypatch.setattr(Sender, "wake", lambda _: None)  # nothing goes before the end
    with pytest.raises(Failure, match="on fire"):
        trained("run", eval__every_epochs=None)
    client = MlflowClient(resolved_uri())
    found = find_run(resolved_uri(), "run")
    assert found is not None
    history = client.get_metric_history(found["run_id"], "train/loss")
    assert [point.step for point in history] == [2, 4, 6]
    assert client.get_run(found["run_id"]).info.status == "FAILED"


def test_what_is_made_apart_leaves_the_numbers_of_others_alone() -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    with Apart():
        weight = torch.nn.Linear(8, 8).weight
        torch.nn.init.trunc_normal_(weight)
    assert torch.equal(torch.get_rng_state(), before)
    assert weight.std() > 0
