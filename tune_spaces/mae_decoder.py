"""How deep and how wide must MAE's decoder be?

Costs: the decoder sees every patch and can cost more than the encoder; ask for both by
metric=eval/knn_top1,cost/gflops. Expect depth to matter for frozen features and hardly for fine-tuning.
"""

from typing import Any

from ray import tune

METHOD = "mae"
GOAL = "eval/knn_top1"


def space(run: Any) -> dict[str, Any]:
    heads = run.method.measure.head.heads
    return {
        "method.measure.head.depth": tune.choice([1, 2, 4, 8]),
        "method.measure.head.width": tune.choice([heads * each for each in (8, 16, 32)]),
    }
