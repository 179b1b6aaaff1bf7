"""Which learning rate, which warm-up and which batch? For any method: method=simmim.

The rate is that for `optim.per` pictures and grows with the batch by itself, so a flat answer over the batch
is the rule at work. Warm-ups are shares of the epochs, and end before the first rung looks.

Costs: an epoch is an epoch whatever the batch; large ones need the memory. Expect an order of magnitude that
works, and the highest rate that does not diverge just below the best.
"""

from typing import Any

from ray import tune

METHOD = "mae"
GOAL = "eval/knn_top1"


def space(run: Any) -> dict[str, Any]:
    return {
        "optim.blr": tune.loguniform(1e-5, 1e-2),
        "schedule.warmup_epochs": tune.choice([round(run.epochs * share, 3) for share in (0, 0.01, 0.05, 0.1)]),
        "batch": tune.choice([128, 256, 512, 1024]),
    }
