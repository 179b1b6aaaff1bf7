"""A trained encoder, from the end of a run back into a notebook."""

import json
import shlex
import shutil
from pathlib import Path

import pytest
import torch
from mlflow import MlflowClient

import mim_ray
from mim_ray import cli
from mim_ray.errors import Failure, Mistake
from mim_ray.evaluate.features import pooled
from mim_ray.methods import resolved
from mim_ray.model_card import ModelCard
from mim_ray.models import CARD, WEIGHTS, checksum_of, load, save_encoder
from mim_ray.subject import subject
from mim_ray.views import View
from tests.models.runs import trained

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # MLflow's own
PICTURES = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("method", "changes"),
    [
        ("mae", {"encoder": "micro"}),
        ("simmim", {"encoder": "micro"}),
        ("mocov3", {"encoder": "micro", "eval.pool": "class"}),
        ("a2mim_r50", {"encoder": "resnet18", "data.crop.size": "32,32", "method.encoder.stem": "small",
                       "method.encoder.patch": 8, "method.t1.mask.block": 8}),
    ],
)  # fmt: skip
def test_an_encoder_comes_back_as_it_was(method: str, changes: dict[str, object], tmp_path: Path) -> None:
    run = resolved(method, changes)
    model = run.method.build((32, 32)).eval()
    words = {path: str(value) for path, value in changes.items()}
    card = ModelCard(method=method, overrides=words, steps=3, dataset="shapes", metrics={}, mim_ray="0")
    save_encoder(model.online.encoder.state_dict(), card, tmp_path)
    again = load(tmp_path)
    with torch.no_grad():
        tokens = model.online.encoder(View(model.normalise(PICTURES), None))
        torch.testing.assert_close(again(PICTURES), pooled(tokens, run.pool))
        torch.testing.assert_close(again.forward_features(PICTURES)[:, 1:], tokens.patches)
    assert again.card == card.model_copy(update={"weights_sha256": checksum_of(tmp_path / WEIGHTS)})


def test_a_run_leaves_its_encoder_in_the_registry_and_its_best_checkpoint(here: Path) -> None:
    found = trained("first", tracking__model="mim-encoder")
    assert (found["unsent"], found["model"]) == (0, "mim-encoder/1")
    by_name, by_run, by_id = load("mim-encoder/1"), load("first"), load(found["run_id"])
    MlflowClient(f"sqlite:///{here}/mlflow.db").set_registered_model_alias("mim-encoder", "champion", "1")
    by_alias = load("mim-encoder@champion")
    for each in (by_run, by_id, by_alias):
        assert torch.equal(each(PICTURES), by_name(PICTURES))
    assert by_name.card.metrics["eval/knn_top1"] == found["metrics"]["eval/knn_top1"]
    client = MlflowClient(f"sqlite:///{here}/mlflow.db")
    history = client.get_metric_history(found["run_id"], "eval/knn_top1")
    assert [point.step for point in history] == [0, 2, 4, 6, 8, 10]
    best = max((point for point in history if point.step), key=lambda point: (point.value, -point.step))
    kept = sorted(path.name for path in Path(found["checkpoint"]).parent.iterdir())
    assert kept == sorted({f"step-{best.step:09}", "step-000000008", "step-000000010"})
    assert found["best"].endswith(f"step-{best.step:09}")
    run = client.get_run(found["run_id"])
    assert run.inputs is not None
    (given,) = run.inputs.dataset_inputs
    assert run.data.tags["mim_ray.dataset_checksum"].startswith(given.dataset.digest)
    state = json.loads(Path(found["checkpoint"], "state.json").read_text())
    assert state["versions"]["mim_ray"] == run.data.tags["mim_ray.version"]
    metrics = run.data.metrics
    assert {"collapse/feature_spread", "collapse/alarms", "system/cpu_utilization_percentage"} <= set(metrics)
    pictures = [item.path for item in client.list_artifacts(found["run_id"], "pictures/views")]
    assert pictures == [f"pictures/views/{step:09}.png" for step in (0, 2, 4, 6, 8, 10)]
    at_best = subject(found["best"]).weights
    assert at_best is not None
    for name in ("first/best", f"{found['run_id']}/best", "mim-encoder/1/best"):
        then = load(name)
        assert (then.card.steps, then.card.metrics["eval/knn_top1"]) == (best.step, best.value)
        assert all(torch.equal(weight, at_best[path]) for path, weight in then.encoder.state_dict().items())
    whole = next(here.glob(f"mlruns/*/{found['run_id']}/artifacts/model"))
    assert torch.equal(load(whole)(PICTURES), by_name(PICTURES))
    assert (whole / "MLmodel").read_text().count("mim_ray.serving") == 1
    again = mim_ray.train(resume="first")
    assert again["model"] == "mim-encoder/1"


def test_of_two_best_encoders_the_newest_that_is_whole_is_taken(here: Path) -> None:
    """One may just be being written when the other is asked for."""
    found = trained("first")
    artifacts = next(here.glob(f"mlruns/*/{found['run_id']}/artifacts"))
    shutil.rmtree(artifacts / "best")
    for slot, steps in (("a", 2), ("b", 4)):
        shutil.copytree(artifacts / "encoder", artifacts / "best" / slot / "encoder")
        card = artifacts / "best" / slot / "encoder" / CARD
        card.write_text(json.dumps(json.loads(card.read_text()) | {"steps": steps}))
    assert load("first/best").card.steps == 4
    with (artifacts / "best" / "b" / "encoder" / WEIGHTS).open("ab") as file:
        file.write(b"more")
    assert load("first/best").card.steps == 2
    shutil.rmtree(artifacts / "encoder")
    with pytest.raises(Mistake, match="logged when the run ends: first/best is its best so far"):
        load("first")


def test_a_replay_does_the_same_again(here: Path) -> None:
    first = trained("first", eval__every_epochs=None, storage="my runs")
    client = MlflowClient(f"sqlite:///{here}/mlflow.db")
    program, *words = shlex.split(client.get_run(first["run_id"]).data.tags["mim_ray.replay"])
    assert (program, cli.run(words)) == ("mim-ray", 0)
    runs = client.search_runs([client.get_run(first["run_id"]).info.experiment_id])
    assert len(runs) == 2
    assert len({run.data.metrics["train/loss"] for run in runs}) == 1


@pytest.mark.usefixtures("here")
def test_a_finished_run_that_is_resumed_keeps_its_numbers() -> None:
    first = trained("first")
    assert mim_ray.train(resume="first")["metrics"] == first["metrics"]
    assert load("first").card.metrics == first["metrics"]


def test_a_mistake_leaves_the_name_free(here: Path) -> None:
    with pytest.raises(Mistake, match="batch=64"):
        trained("named", batch=64)
    assert not (here / "runs" / "named").exists()
    assert trained("named", steps=2)["steps"] == 2


def test_pictures_to_look_at_that_are_not_there_are_missed_before_the_start(here: Path) -> None:
    (here / "mlflow.db").unlink()
    with pytest.raises(Mistake, match=r"^data.val=.*nowhere.beton: no such file"):
        trained("blind", data__val="nowhere.beton")
    assert not (here / "mlflow.db").exists()


def test_what_is_no_model_is_said(here: Path) -> None:
    with pytest.raises(Mistake, match="no model 'nix'"):
        load("nix")
    with pytest.raises(Mistake, match=r"no registered model .nix."):
        load("nix@champion")
    (here / "torn").mkdir()
    (here / "torn" / "encoder.json").write_text(json.dumps({}))
    with pytest.raises(Failure, match="holds no encoder that can be read"):
        load(here / "torn")


@pytest.mark.parametrize("path", ["tracking.uri", "storage", "data.train"])
def test_a_password_is_not_written_down(path: str, here: Path) -> None:
    with pytest.raises(Mistake, match=f"^{path}: expected no password, token") as refusal:
        trained("open", **{path: "http://me:secret@host/x"})
    assert "secret@" not in str(refusal.value)
    assert not (here / "runs").exists()
