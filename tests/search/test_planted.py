"""An optimum that is known by construction is found with half the training that chance needs."""

import math
import statistics
from functools import cache
from pathlib import Path

import pytest

from mim_ray.cost import cost
from mim_ray.search.memory import Record
from mim_ray.search.plan import Plan
from mim_ray.search.space import of_source, run_of
from tests.search.played import Played, plan_at

SPACE = """
from ray import tune

METHOD = "mae"
SPACE = {
    "method.measure.head.depth": tune.randint(1, 7),
    "method.measure.head.width": tune.choice([64, 96, 128, 160]),
    "method.t1.mask.ratio": tune.quniform(0.1, 0.9, 0.1),
}
"""
FIXED = {"encoder": "micro", "method.measure.head.heads": "4"}
PLANTED = {"method.measure.head.depth": "5", "method.measure.head.width": "160", "method.t1.mask.ratio": "0.3"}
NEAR = 0.99
LOOKS, TRIALS, SEEDS = 9, 120, 10


@cache
def flops(words: tuple[tuple[str, str], ...]) -> int:
    """As the run logs it."""
    return cost(run_of(of_source("planted", SPACE, FIXED), dict(words), FIXED)).flops


def worth(record: Record) -> float:
    """1 at the planted optimum, and the less the further its cost is from that."""
    return math.exp(-abs(math.log(flops(tuple(record.words.items())) / flops(tuple(PLANTED.items())))))


def learnt(record: Record) -> list[float]:
    """Fast at first; whoever is better at the end is so all along."""
    return [worth(record) * (1 - math.exp(-look / 3)) for look in range(1, LOOKS + 1)]


def plan_of(folder: Path, searcher: str, scheduler: str) -> Plan:
    return plan_at(folder, SPACE, searcher=searcher, scheduler=scheduler, trials=TRIALS)._replace(fixed=FIXED)


def epochs_until_found(plan: Plan, seed: int) -> int:
    """That all trials were trained together until one near the optimum had come to its end; or all there are."""
    played = Played(plan, seed=seed)
    while (trial := played.begin(learnt)) is not None:
        while played.go_on(trial):
            pass
        if trial.record.state == "finished" and worth(trial.record) >= NEAR:
            return played.epochs
    return TRIALS * LOOKS


def test_the_planted_optimum_is_the_best_and_is_rare() -> None:
    space = of_source("planted", SPACE, FIXED)
    assert worth(Record(0, {}, PLANTED)) == 1
    for name, others in (("depth", ("4", "6")), ("width", ("96", "128"))):
        for other in others:
            words = PLANTED | {f"method.measure.head.{name}": other}
            assert words.keys() == space.domains.keys()
            assert worth(Record(0, {}, words)) < NEAR


@pytest.mark.timeout(120)
def test_advice_and_rungs_find_it_with_half_the_epochs_of_chance(tmp_path: Path) -> None:
    needed = {
        searcher: [
            epochs_until_found(plan_of(tmp_path / f"{searcher}{seed}", searcher, scheduler), seed)
            for seed in range(SEEDS)
        ]
        for searcher, scheduler in (("optuna", "asha"), ("random", "none"))
    }
    assert statistics.median(needed["optuna"]) <= statistics.median(needed["random"]) / 2, needed
