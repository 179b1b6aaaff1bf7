"""What is found of a run whenever it is looked at, and which way is better."""

LOSS = "eval/loss"
"""The method's own, of pictures that it does not learn from."""

LINEAR = "eval/linear_top1"
"""A linear probe's, where eval.linear asks for it."""

LOOKED_AT = ("eval/knn_top1", "eval/knn_top5", "eval/top1", "eval/top5", LINEAR, LOSS)

COST = ("cost/gflops", "cost/parameters")
"""What a step costs for each picture, and how many weights it trains: known before it is begun."""


def is_higher_better(metric: str) -> bool:
    return not metric.startswith(("train/", "cost/")) and metric != LOSS
