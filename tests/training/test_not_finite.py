"""A loss that is not finite: back to the last checkpoint and past it, three times, and then an end in words."""

import json
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor

from mim_ray.training.job import job_of
from mim_ray.training.place import Place
from mim_ray.training.skips import SAMPLES
from mim_ray.training.step import Stepper
from mim_ray.training.worker import loader_for
from mim_ray.views import Measured
from tests.training.runs import Ended, job_at, worked

PICTURES, BATCH = 64, 12
NAN = float("nan")


def spoil(steps: tuple[int, ...], through_the_update: bool = False) -> None:
    """One picture of each of these steps has a loss that is no number, or a gradient that spoils the weights."""
    per_epoch = PICTURES // BATCH
    pictures = {step // per_epoch * PICTURES + step % per_epoch * BATCH + 3 for step in steps}
    measured_well = Stepper._measured

    def measured(self: Stepper, crops: tuple[Tensor, ...], position: Tensor, *rest: object) -> Measured:
        measured = measured_well(self, crops, position, *rest)  # type: ignore[arg-type]
        if not pictures & set(position.tolist()):
            return measured
        if through_the_update:
            measured.loss.register_hook(lambda slope: slope * NAN)
            return measured
        return Measured(measured.loss * NAN, measured.parts)

    Stepper._measured = measured  # type: ignore[method-assign, assignment]


def spoiled(folder: Path, *steps: int, world: int = 1, die_at: int = 1 << 30, **changes: object) -> Ended:
    job = job_at(folder, "mae", {"batch": BATCH, **changes})
    return worked(job, world, die_at, prepare=partial(spoil, steps))


def state_of(folder: Path, step: int) -> dict[str, object]:
    state: dict[str, object] = json.loads((folder / f"run/checkpoints/step-{step:09}/state.json").read_text())
    return state


@pytest.mark.parametrize("world", [1, 2])
def test_the_batch_and_the_one_before_it_are_left_out(tmp_path: Path, world: int) -> None:
    """Also where the run is killed afterwards, before the next checkpoint and behind it."""
    ended = spoiled(tmp_path / "alone", 4, world=world)
    assert ended.code == 0, ended.said
    assert list(ended.losses) == [1, 2, 3, 4, 6, 7, 8]  # the fourth of the time before the skip
    assert all(loss == loss for loss in ended.losses.values())
    assert state_of(tmp_path / "alone", 8)["skipped"] == [3, 4]
    for die_at in (5, 7):
        assert spoiled(tmp_path / "killed", 4, world=world, die_at=die_at).code == -9
    again = spoiled(tmp_path / "killed", 4, world=world)
    assert again.result["weights_sha256"] == ended.result["weights_sha256"]
    assert state_of(tmp_path / "killed", 8)["skipped"] == [3, 4]


def test_an_update_that_spoils_the_weights_is_left_out_too(tmp_path: Path) -> None:
    """It is the last of a checkpoint, which is not written, and seen in the next loss."""
    job = job_at(tmp_path, "mae", {"batch": BATCH, "checkpoint.every_steps": 6})
    ended = worked(job, prepare=partial(spoil, (5,), True))
    assert ended.code == 0, ended.said
    assert "after step 6" in ended.said
    assert "is not finite" in ended.said
    assert state_of(tmp_path, 8)["skipped"] == [5, 6]


def test_a_last_update_that_spoils_the_weights_is_left_out_too(tmp_path: Path) -> None:
    """No loss comes after it."""
    job = job_at(tmp_path, "mae", {"batch": BATCH, "checkpoint.every_steps": 6})
    ended = worked(job, prepare=partial(spoil, (7,), True))
    assert ended.code == 0, ended.said
    assert state_of(tmp_path, 8)["skipped"] == [7, 8]


@pytest.mark.parametrize("world", [1, 2])
@pytest.mark.parametrize("steps", [(1, 3, 5, 7), (2, 3, 4, 5)])
def test_the_fourth_time_it_fails_and_names_the_samples(
    tmp_path: Path, steps: tuple[int, ...], world: int
) -> None:
    ended = spoiled(tmp_path, *steps, world=world)
    assert ended.code == 1
    said = ended.said.splitlines()[-1]
    assert "Diverged: the loss was not finite 4 times, the last time at step " in said
    assert said.count(",") > BATCH - 1
    assert "sample:shapes:n=64: lower optim.blr" in said
    assert said.endswith(f"in {tmp_path}/run/not-finite.json")


def test_the_samples_are_those_that_were_trained_on(tmp_path: Path) -> None:
    """Of a subset, and of all steps that were left out."""
    changes: dict[str, object] = {"batch": BATCH, "data.few.n": 16}
    job = job_at(tmp_path, "mae", changes)
    ended = worked(job, prepare=partial(spoil, (0, 1, 2, 3)))
    assert ended.code == 1, ended.said
    loader = loader_for(job_of(job.read_bytes()).run, Place(device=torch.device("cpu")))
    trained_on = {str(batch.step): batch.samples.tolist() for batch in loader.batches(0, 4)}
    assert json.loads((tmp_path / "run" / SAMPLES).read_text()) == trained_on
    assert f"with samples {', '.join(map(str, trained_on['3']))} of" in ended.said.splitlines()[-1]
