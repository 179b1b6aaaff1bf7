"""The arrays that steer a run, against the formulas as the papers' code has them."""

import math

import pytest

from mim_ray.methods import resolved
from mim_ray.training.schedule import base_lr, planned, warn_of_warm_up


@pytest.mark.parametrize(
    ("method", "blr", "per"), [("mae", 1.5e-4, 256), ("a2mim_code", 1e-4, 512), ("mocov3", 1.5e-4, 256)]
)
def test_the_learning_rate_is_for_the_global_batch(method: str, blr: float, per: int) -> None:
    run = resolved(method, {"batch": 512})
    assert run.optim.per == per
    assert base_lr(run) == pytest.approx(run.optim.blr * 512 / per)
    assert base_lr(resolved(method, {"batch": 512, "optim.blr": blr})) == pytest.approx(blr * 512 / per)


def test_warm_up_and_half_cosine_step_by_step() -> None:
    run = resolved("mae", {"epochs": 10, "schedule.warmup_epochs": 2.5})
    plan = planned(run, steps_per_epoch=4)
    assert plan.steps == 40
    for step, lr in enumerate(plan.lr):
        epoch = step / 4
        share = epoch / 2.5 if epoch < 2.5 else 0.5 * (1 + math.cos(math.pi * (epoch - 2.5) / 7.5))
        assert lr == pytest.approx(base_lr(run) * share, abs=1e-12)


def test_steps_end_the_run_instead_of_epochs_and_the_cosine_with_it() -> None:
    plan = planned(resolved("mae", {"steps": 7, "schedule.warmup_epochs": 0}), steps_per_epoch=4)
    assert plan.steps == len(plan.lr) == len(plan.momentum) == 7
    assert plan.lr[0] == plan.lr.max()
    assert plan.lr[-1] < 0.1 * plan.lr[0]


def test_a_warm_up_longer_than_the_run_only_warms_up() -> None:
    plan = planned(resolved("mae", {"steps": 4, "schedule.warmup_epochs": 40}), steps_per_epoch=4)
    assert list(plan.lr) == sorted(plan.lr)


def test_a_run_that_ends_within_its_warm_up_says_so(caplog: pytest.LogCaptureFixture) -> None:
    for steps, epochs in ((161, 40), (4, 0), (0, 40)):
        run = resolved("mae", {"steps": steps, "schedule.warmup_epochs": epochs})
        warn_of_warm_up(run, planned(run, steps_per_epoch=4))
    assert caplog.text == ""
    run = resolved("mae", {"steps": 160, "schedule.warmup_epochs": 40})
    warn_of_warm_up(run, planned(run, steps_per_epoch=4))
    assert "schedule.warmup_epochs=40: is 160 steps, and the run ends after 160 of them" in caplog.text


def test_the_momentum_of_the_target_follows_its_own_cosine() -> None:
    assert set(planned(resolved("mae", {"epochs": 1}), 4).momentum) == {1.0}
    assert set(planned(resolved("cmae", {"epochs": 1}), 4).momentum) == {0.996}
    momentum = planned(resolved("mocov3", {"epochs": 2}), 50).momentum
    assert momentum[0] == pytest.approx(0.99)
    assert momentum[50] == pytest.approx(0.995)
    assert 0.9999 < momentum[-1] < 1


def test_weight_decay_stays_or_follows_a_half_cosine() -> None:
    assert set(planned(resolved("mae", {"epochs": 1}), 4).weight_decay) == {0.05}
    words = {"epochs": 2, "optim.weight_decay": 0.04, "optim.weight_decay_final": 0.4}
    decay = planned(resolved("mae", words), 50).weight_decay
    assert decay[0] == pytest.approx(0.04)
    assert decay[50] == pytest.approx(0.22)
    assert 0.399 < decay[-1] < 0.4
