"""The loss of pictures that are not learnt from, against one batch of all of them."""

from pathlib import Path

import pytest
import torch

from mim_ray.data.importer import Import, import_set
from mim_ray.data.sources import open_source
from mim_ray.evaluate.features import few_pictures
from mim_ray.evaluate.loss import loss_of
from mim_ray.evaluate.online import Onlooker
from mim_ray.methods import resolved
from mim_ray.training.best import measure_of
from mim_ray.transforms.crop import CenterCrop
from tests.training.runs import job_at, worked

SIZE = (32, 32)
VAL = "sample:shapes:n=21,split=val"


@pytest.fixture(scope="module")
def beton(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("set") / "val.beton"
    import_set(open_source(VAL), path, Import(workers=1, max_resolution=None))
    return path


@pytest.mark.parametrize("method", ["mae", "rmae", "simmim_r50", "cmae_mean"])
def test_it_is_the_methods_own_over_all_pictures(beton: Path, method: str) -> None:
    words = {"encoder": "resnet-micro" if "r50" in method else "micro", "data.val": str(beton)}
    run = resolved(method, {**words, "data.train": str(beton)})
    model = run.method.build(SIZE)
    loader = few_pictures(beton, None, CenterCrop(size=SIZE), device=torch.device("cpu"), batch=100)
    (whole,) = loader.epoch()
    with torch.no_grad():
        expected = float(model.eval()(whole.crops, whole.position).loss)
    model.train()
    assert loss_of(model, loader) == pytest.approx(expected, rel=1e-5)
    assert model.training
    if method != "cmae_mean":  # whose loss is among the pictures of a batch
        parts = few_pictures(beton, None, CenterCrop(size=SIZE), device=torch.device("cpu"), batch=8)
        assert loss_of(model, parts) == pytest.approx(expected, rel=1e-5)
    onlooker = Onlooker(run, torch.device("cpu"))
    first, second = (onlooker.look(model)["eval/loss"] for _ in "ab")
    assert first == second == pytest.approx(expected, rel=0.2)  # the central part of each picture alone


def test_pictures_without_a_partner_are_left_out(beton: Path) -> None:
    model = resolved("mae", {"encoder": "micro", "method.shared.cutmix": "on"}).method.build(SIZE)
    loader = few_pictures(beton, None, CenterCrop(size=SIZE), device=torch.device("cpu"), batch=100)
    assert loss_of(model, loader) > 0


def test_a_run_ends_when_nothing_better_comes(tmp_path: Path) -> None:
    """At a learning rate of nearly nothing the first look is the best; the second finds nothing better."""
    changes = {
        "data.val": VAL,
        "eval.every_epochs": 0.4,
        "eval.pictures": 0,
        "eval.patience": 1,
        "optim.blr": 1e-30,
    }
    job = job_at(tmp_path, "mae", {**changes, "steps": 40, "checkpoint.best": "eval/loss"})
    ended = worked(job)
    assert (ended.result["steps"], ended.result["finished"]) == (4, True)
    assert "the run ends at step 4 of 40: no better eval/loss in 1 looks" in ended.said
    assert ended.result["best"].endswith("step-000000002")
    again = worked(job)
    assert (again.result["steps"], again.losses) == (4, {})


def test_a_best_that_was_measured_otherwise_is_forgotten(tmp_path: Path) -> None:
    """Or a run that is resumed by another metric would end at once, for nothing beats a loss of other pictures."""
    words: dict[str, object] = {"data.val": VAL, "eval.every_epochs": 0.4, "eval.pictures": 0, "eval.patience": 1}
    words |= {"optim.blr": 1e-30, "steps": 40, "checkpoint.best": "eval/loss"}
    assert worked(job_at(tmp_path, "mae", words)).result["steps"] == 4
    for last, changes in ((8, {"checkpoint.best": "eval/knn_top1"}), (12, {"data.val": f"{VAL},seed=1"})):
        words |= changes
        ended = worked(job_at(tmp_path, "mae", words))
        assert (ended.result["steps"], ended.result["finished"]) == (last, True), ended.said
        assert "was measured otherwise: it is forgotten" in ended.said
        assert ended.result["best"].endswith(f"step-{last - 2:09}")


@pytest.mark.parametrize(
    ("changes", "is_the_same"),
    [
        ({"eval.patience": 3, "eval.every_epochs": 2, "eval.pictures": 0}, True),
        ({"eval.pool": "mean"}, True),  # as an autoencoder has it anyway
        ({"eval.most": 9}, False),
        ({"eval.neighbours": "10"}, False),
        ({"checkpoint.best": "eval/knn_top5"}, False),
    ],
)
def test_what_the_best_is_measured_by(changes: dict[str, object], is_the_same: bool) -> None:
    before, after = resolved("mae", {"encoder": "micro"}), resolved("mae", {"encoder": "micro", **changes})
    assert (measure_of(before, "5") == measure_of(after, "5")) is is_the_same
    assert measure_of(before, "5") != measure_of(before, "6")
    by_training = resolved("mae", {"encoder": "micro", "checkpoint.best": "train/loss"})
    assert measure_of(by_training, "5") == measure_of(by_training, "6")


def test_what_is_never_found_is_waited_for_in_no_run(tmp_path: Path) -> None:
    changes = {"eval.every_epochs": 0.4, "eval.pictures": 0, "eval.patience": 1, "checkpoint.best": "train/losss"}
    ended = worked(job_at(tmp_path, "mae", changes))
    assert ended.code == 1
    assert "checkpoint.best=train/losss: nothing of that name is found: expected one of train/loss, " in ended.said


def test_two_workers_find_the_loss_of_one(tmp_path: Path) -> None:
    """21 pictures are no multiple of them."""
    found = []
    for world in (1, 2):
        changes = {"data.val": VAL, "eval.every_epochs": 1, "eval.pictures": 0, "steps": 2, "optim.blr": 1e-3}
        ended = worked(job_at(tmp_path / str(world), "cmae", changes), world=world)
        assert ended.code == 0, ended.said
        found.append(ended.result["metrics"]["eval/loss"])
    assert found[1] == pytest.approx(found[0], rel=2e-4)
