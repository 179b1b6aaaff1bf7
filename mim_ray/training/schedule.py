"""What changes from step to step, for the whole run in advance: learning rate, weight decay, EMA momentum."""

import logging
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mim_ray.encoders.target import Ema
from mim_ray.run import Run

logger = logging.getLogger("mim_ray.training")
Numbers = NDArray[np.float64]


class Plan(NamedTuple):
    """One number for each step of the run."""

    steps: int
    steps_per_epoch: int
    lr: Numbers
    weight_decay: Numbers
    """Of the weights that decay."""
    momentum: Numbers
    """Of the EMA target; 1 where there is none."""


def planned(run: Run, steps_per_epoch: int) -> Plan:
    steps = run.epochs * steps_per_epoch if run.steps is None else run.steps
    warmup = min(run.schedule.warmup_epochs * steps_per_epoch, steps)
    step = np.arange(steps, dtype=np.float64)
    after = (step - warmup) / max(steps - warmup, 1)
    share = np.where(step < warmup, step / max(warmup, 1), 0.5 * (1 + np.cos(np.pi * after.clip(0, 1))))
    target = run.method.target
    momentum = [target.momentum_at(done) for done in step / steps] if isinstance(target, Ema) else np.ones(steps)
    first = run.optim.weight_decay
    final = first if run.optim.weight_decay_final is None else run.optim.weight_decay_final
    decay = final + (first - final) * 0.5 * (1 + np.cos(np.pi * step / steps))
    return Plan(steps, steps_per_epoch, base_lr(run) * share, decay, np.asarray(momentum))


def warn_of_warm_up(run: Run, plan: Plan) -> None:
    """Of a run that ends in it, and so never comes to the learning rate that its words say."""
    steps = run.schedule.warmup_epochs * plan.steps_per_epoch
    if 0 < plan.steps <= steps:
        logger.warning(
            "schedule.warmup_epochs=%g: is %.0f steps, and the run ends after %d of them, while its learning rate "
            "still rises: shorten it, or train for longer",
            run.schedule.warmup_epochs, steps, plan.steps,
        )  # fmt: skip


def base_lr(run: Run) -> float:
    return run.optim.blr * run.batch / run.optim.per
