"""What is found of a run whenever it is looked at, and which way is better."""

LOSS = "eval/loss"
"""The method's own, of pictures that it does not learn from."""

LOOKED_AT = ("eval/knn_top1", "eval/knn_top5", "eval/top1", "eval/top5", LOSS)


def is_higher_better(metric: str) -> bool:
    return not metric.startswith("train/") and metric != LOSS
