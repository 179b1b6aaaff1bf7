"""One step of the loop, held against what the plan says."""

import torch

from mim_ray.methods import resolved
from mim_ray.training.place import Place
from mim_ray.training.schedule import planned
from mim_ray.training.step import Stepper
from mim_ray.training.worker import loader_for
from tests.training.runs import SMALL


def test_the_target_follows_by_the_momentum_of_the_step() -> None:
    """MoCo v3's rises by a cosine from 0.99."""
    run = resolved("mocov3", {**SMALL, "method.encoder.freeze_patches": False, "schedule.warmup_epochs": 0})
    loader = loader_for(run, Place())
    plan = planned(run, loader.steps_per_epoch)
    stepper = Stepper(run, Place(), plan, 1)
    target = stepper.model.target
    assert target is not None
    for batch in loader.batches(0, 3):
        before = [weight.clone() for weight in target.parameters()]
        stepper(batch)
        momentum = float(plan.momentum[batch.step])
        assert 0.98 < momentum < 1
        online = stepper.model.online.parameters()
        for old, new, found in zip(before, online, target.parameters(), strict=True):
            torch.testing.assert_close(found, momentum * old + (1 - momentum) * new)
