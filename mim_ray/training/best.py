"""Which checkpoint is the best so far, by `checkpoint.best`, and how long a better one is waited for."""

import json
import logging
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from mim_ray.errors import Mistake
from mim_ray.run import Run
from mim_ray.scores import worth
from mim_ray.training.meters import Row

logger = logging.getLogger("mim_ray.training")


class Best(NamedTuple):
    value: float
    """What it is compared by: higher is better."""
    step: int
    by: str = ""
    """What it was measured by: others do not compare."""


def measure_of(run: Run, pictures: str | None) -> str:
    """What `checkpoint.best` measures; `pictures`: the checksum of those in data.val."""
    metric = run.checkpoint.best
    if metric is None or metric.startswith("train/"):
        return str(metric)
    looking = run.eval.model_dump(mode="json", exclude={"every_epochs", "patience", "pictures"})
    looking |= {"size": run.looked_at, "pool": run.pool}
    return json.dumps({"metric": metric, "pictures": pictures, **looking}, sort_keys=True)


def remembered(kept: Sequence[Any], measure: str) -> Best | None:
    """That of a checkpoint, unless it was measured otherwise than what comes."""
    best = Best(*kept)
    if best.by == measure:
        return best
    logger.warning("the best so far, at step %d, was measured otherwise: it is forgotten", best.step)
    return None


def bettered(best: Best | None, run: Run, found: Row, done: int, measure: str) -> Best | None:
    """The best after what was just found. A run that is to end by it must have it."""
    metric = run.checkpoint.best
    if run.eval.patience is not None and metric not in found:
        known = ", ".join(name for name in found if name.startswith(("eval/", "train/")))
        raise Mistake(f"checkpoint.best={metric}: nothing of that name is found: expected one of {known}")
    if metric is None or not math.isfinite(found.get(metric, math.nan)):
        return best
    value = worth(metric, found[metric])
    return Best(value, done, measure) if best is None or value > best.value else best


def steps_between_looks(run: Run, steps_per_epoch: int) -> int | None:
    """None: it is never looked at."""
    every = run.eval.every_epochs
    return None if every is None else max(1, round(every * steps_per_epoch))


def waited_enough(best: Best | None, run: Run, steps_per_epoch: int, done: int) -> bool:
    """Whether `eval.patience` looks have found nothing better."""
    between = steps_between_looks(run, steps_per_epoch)
    if best is None or between is None or run.eval.patience is None:
        return False
    return done - best.step >= run.eval.patience * between
