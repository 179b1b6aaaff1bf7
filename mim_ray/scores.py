"""What is found of a run whenever it is looked at, and which way is better."""

LOSS = "eval/loss"
"""The method's own, of pictures that it does not learn from."""

LINEAR = "eval/linear_top1"
"""A linear probe's, where eval.linear asks for it."""

LOOKED_AT = ("eval/knn_top1", "eval/knn_top5", "eval/top1", "eval/top5", LINEAR, LOSS)

LOWER = (LOSS, "cost/", "memory/", "speed/data_wait", "collapse/patch_similarity", "collapse/alarms")
"""How the metrics begin of which less is better, beside the losses that are trained by."""

COST = ("cost/gflops", "cost/parameters")
"""What a step costs for each picture, and how many weights it trains: known before it is begun."""


def worth(metric: str, value: float) -> float:
    """By which any two are compared: higher is better."""
    return value if is_higher_better(metric) else -value


def is_higher_better(metric: str) -> bool:
    """Of all that a run logs; what is not of these is a share that is right, or says nothing of a model."""
    if metric.startswith("train/"):
        return metric.startswith(("train/top1", "train/cosine"))
    return not metric.startswith(LOWER)
