"""`mim-ray eval`: protocols from a model's name to numbers in MLflow."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

import mim_ray
from mim_ray import judge, launch
from mim_ray.data.samples import SHAPES
from mim_ray.errors import Failure, Mistake
from mim_ray.judge import evaluate
from mim_ray.methods import resolved
from mim_ray.training.job import job_of
from tests.databases import fresh

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # MLflow's own
SETS = {"data.train": "sample:shapes:n=120", "data.val": "sample:shapes:n=40,split=val", "data.backend": "torch"}
QUICK = {**SETS, "workers": 0, "precision": "fp32", "eval.share": 1.0, "schedule.warmup_epochs": 0, "batch": 24}
CLASSES = 8


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    fresh(tmp_path)
    return tmp_path


@pytest.fixture
def pretrained() -> dict[str, Any]:
    words = {"name": "first", "encoder": "micro", "batch": 24, "steps": 4, "workers": 0, "data.backend": "torch"}
    words |= {"optim.blr": 0.05, "schedule.warmup_epochs": 0}
    return mim_ray.train("mae", {**words, "data.train": "sample:shapes:n=48", "tracking.model": "mim-encoder"})


def test_a_model_is_judged_by_every_name_it_has(pretrained: dict[str, Any]) -> None:
    names = ["first", pretrained["run_id"], "mim-encoder/1", pretrained["checkpoint"]]
    found = [evaluate("knn", name, QUICK)["metrics"] for name in names]
    assert found[0].keys() >= {"eval/knn_top1", "eval/knn_top5", "eval/knn_top1_k10_t0.07"}
    assert all(one == found[0] for one in found)
    assert evaluate("knn", "random:micro", QUICK)["metrics"] != found[0]


def test_protocols_leave_child_runs_with_tables_and_pictures(here: Path, pretrained: dict[str, Any]) -> None:
    client = MlflowClient(f"sqlite:///{here}/mlflow.db")
    for protocol, words in (
        ("linear", {"epochs": 2, "method.measure.rates": "0.1,1"}),
        ("finetune", {"epochs": 2}),
        ("fewshot", {"epochs": 2, "per_class": 3}),
        ("knn", {"k": "5,10", "temperature": "0.07,0.1"}),
    ):
        result = evaluate(protocol, "mim-encoder/1", {**QUICK, **words})
        run = client.get_run(result["run_id"])
        assert run.data.tags["mlflow.parentRunId"] == pretrained["run_id"]
        assert (run.data.tags["mim_ray.protocol"], run.info.status) == (protocol, "FINISHED")
        top = "eval/knn_top1" if protocol == "knn" else "eval/top1"
        assert run.data.metrics[top] == result["metrics"][top]
        files = {file.path for file in client.list_artifacts(run.info.run_id, "evaluation")}
        assert files == {"evaluation/classes.json", "evaluation/confusions.png"}
        rows = classes_of(here, run.info.run_id)
        assert sum(row["pictures"] for row in rows) == 40
        right = sum(row["top1"] * row["pictures"] for row in rows)
        assert right / 40 == pytest.approx(result["metrics"][top])
    assert "eval/knn_top1_k10_t0.1" in result["metrics"]
    assert "eval/top1" not in result["metrics"]
    alone = {name: value for name, value in QUICK.items() if name not in ("batch", "data.val")}
    result = evaluate("knn", "first", alone)  # 120 pictures are no batch of 256
    assert result["metrics"]["eval/knn_top1"] > 0
    rows = classes_of(here, result["run_id"])
    assert sum(row["pictures"] for row in rows) == 120
    assert {row["class"] for row in rows} == set(SHAPES)


def classes_of(here: Path, run_id: str) -> list[dict[str, Any]]:
    """The table that a protocol left in MLflow."""
    table = next(here.glob(f"mlruns/*/{run_id}/artifacts/evaluation/classes.json"))
    return json.loads(table.read_text())  # type: ignore[no-any-return]


def test_seeds_are_runs_and_their_mean_is_told(here: Path) -> None:
    result = evaluate("linear", "random:micro", {**QUICK, "epochs": 1, "name": "three"}, seeds=3)
    client = MlflowClient(f"sqlite:///{here}/mlflow.db")
    assert result["names"] == ["three-seed0", "three-seed1", "three-seed2"]
    children = client.search_runs(["1"], f"tags.`mlflow.parentRunId` = '{result['run_id']}'")
    tops = [run.data.metrics["eval/top1"] for run in children]
    assert len(tops) == 3
    summary = client.get_run(result["run_id"]).data.metrics
    assert summary["eval/top1"] == pytest.approx(sum(tops) / 3)
    assert summary["eval/top1_std"] == pytest.approx(result["std"]["eval/top1"])
    assert {"eval/top1_1", "eval/top5"} < result["metrics"].keys() == result["std"].keys()
    assert "eval/rate" not in result["metrics"]  # the mean of the best classifiers' names


def test_seeds_that_were_cut_short_go_on(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = {**QUICK, "epochs": 1, "name": "cut"}
    trained: list[str] = []

    def cut(*of: Any, **more: Any) -> Any:
        trained.append(more.get("resume") or of[1]["name"])
        if trained == ["cut-seed0", "cut-seed1"]:
            raise KeyboardInterrupt
        return launch.train(*of, **more)

    monkeypatch.setattr(judge, "train", cut)
    with pytest.raises(KeyboardInterrupt):
        evaluate("linear", "random:micro", words, seeds=3)
    result = evaluate("linear", "random:micro", words, seeds=3)
    assert trained == ["cut-seed0", "cut-seed1", "cut-seed0", "cut-seed1", "cut-seed2"]
    client = MlflowClient(f"sqlite:///{here}/mlflow.db")
    (summary,) = client.search_runs(["1"], "attributes.run_name = 'cut'")
    assert (summary.info.run_id, summary.info.status) == (result["run_id"], "FINISHED")
    children = client.search_runs(["1"], f"tags.`mlflow.parentRunId` = '{result['run_id']}'")
    assert sorted(run.info.run_name for run in children) == ["cut-seed0", "cut-seed1", "cut-seed2"]
    with pytest.raises(Mistake, match=r"^name=cut-seed0: .* has another judging of that name: rename"):
        evaluate("linear", "random:micro", {**words, "epochs": 2}, seeds=3)


def test_the_same_seed_is_the_same_result_and_a_stopped_protocol_goes_on() -> None:
    words = {**QUICK, "epochs": 2, "per_class": 4}
    one, other = (evaluate("fewshot", "random:micro", {**words, "name": name}) for name in ("one", "other"))
    assert one["metrics"] == other["metrics"]
    assert mim_ray.train(resume="one")["metrics"]["eval/top1"] == one["metrics"]["eval/top1"]
    shutil.move("runs", "moved")
    moved = mim_ray.train(resume="one", overrides={"storage": "moved"})
    assert moved["metrics"]["eval/top1"] == one["metrics"]["eval/top1"]


def test_a_recipe_is_fitted_to_a_small_set_and_small_pictures() -> None:
    words = {name: value for name, value in QUICK.items() if name != "batch"} | {"epochs": 1}
    assert evaluate("fewshot", "random:resnet-micro", {**words, "per_class": 2, "name": "few"})["metrics"]
    run = job_of(Path("runs/few/run.json").read_bytes()).run
    assert (run.batch, run.data.crop.size, run.looked_at) == (2 * CLASSES, (32, 32), (32, 32))
    assert evaluate("linear", "random:micro", {**words, "name": "probe"})["metrics"]
    assert job_of(Path("runs/probe/run.json").read_bytes()).run.batch == 120


@pytest.mark.parametrize("protocol", ["linear", "knn"])
def test_the_first_stages_of_a_cnn_are_judged_alone(protocol: str) -> None:
    words = {**QUICK, "epochs": 1}
    found = [evaluate(protocol, "random:resnet-micro", {**words, "layer": layer}) for layer in (2, 4)]
    assert found[0]["metrics"] != found[1]["metrics"]


def test_an_encoder_of_few_layers_is_judged_as_it_is() -> None:
    """Of a ViT and a CNN that were trained so; fewer of these can be asked for, but not more."""
    shallow = {"batch": 24, "steps": 1, "workers": 0, "data.backend": "torch", "method.encoder.depth": 2}
    sets = {"data.train": "sample:shapes:n=48", "schedule.warmup_epochs": 0}
    for method, encoder in (("mae", "micro"), ("simmim_r50", "resnet-micro")):
        mim_ray.train(method, {**shallow, **sets, "encoder": encoder, "name": encoder})
        whole, first = (evaluate("knn", encoder, {**QUICK, **words}) for words in ({}, {"layer": 1}))
        assert whole["metrics"] != first["metrics"]
        with pytest.raises(Mistake, match="is missing"):
            evaluate("knn", encoder, {**QUICK, "layer": 3})


def test_few_labels_are_as_many_of_every_class() -> None:
    from mim_ray.training.place import Place
    from mim_ray.training.worker import loader_for

    words = {**QUICK, "encoder": "micro", "data.few.per_class": 3, "batch": 3 * CLASSES}
    loader = loader_for(resolved("finetune", words), Place())
    for epoch in range(2):
        (batch,) = loader.epoch(epoch)
        assert batch.labels is not None
        assert batch.labels.bincount().tolist() == [3] * CLASSES
    samples = [sorted(next(loader.epoch(epoch)).samples.tolist()) for epoch in range(2)]
    assert samples[0] == samples[1]


@pytest.mark.parametrize(
    ("protocol", "model", "words", "said"),
    [
        ("finetun", "random:micro", {}, "no protocol 'finetun': did you mean 'finetune'?"),
        ("linear", "random:micor", {}, "encoder=micor: "),
        ("linear", "random:micro", {"data.val": "none"}, "data.val=none: linear is judged by pictures"),
        ("linear", "vit_small_patch16_224.dinov9", {}, "no model 'vit_small"),
        ("knn", "nowhere", {}, "no model 'nowhere'"),
        ("linear", "random:micro", {"layer": 9}, "depth=9: a micro ViT has 6 blocks"),
        ("linear", "random:resnet-micro", {"layer": 5}, "depth=5: resnet-micro has 4 stages: expected 1 to 4"),
        ("linear", "random:micro", {"data.train": "sample:photos"}, "has no labels to learn from"),
        ("fewshot", "random:micro", {"fraction": 2}, "data.few.fraction=2"),
        ("linear", "random:micro", {"classes": 3}, "classes=3: the sets have "),
    ],
)
def test_what_cannot_be_judged_is_refused_in_words(
    here: Path, protocol: str, model: str, words: dict[str, object], said: str
) -> None:
    with pytest.raises((Mistake, Failure), match=said.replace("?", r"\?")):
        evaluate(protocol, model, {**QUICK, **words}, track=False)
    assert not (here / "runs").exists()
