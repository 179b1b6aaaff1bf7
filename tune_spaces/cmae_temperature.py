"""How sharp is C-MAE's contrast, how slow its average, how strong its colours, and what is compared?

Costs: as C-MAE, about 2.5 times MAE for each trial. Expect the best temperature to fall with more candidates,
and single tokens to want less jitter than a picture's mean. A momentum near 1 needs long runs to pay.
"""

from ray import tune

VIEWS, COLOURS = ("t1", "t2"), ("brightness", "contrast", "saturation")

METHOD = "cmae"
SPACE = {
    "method.measure.temperature": tune.loguniform(0.05, 1.0),
    "method.target.momentum": tune.choice([0.9, 0.96, 0.99, 0.996, 0.999]),
    ",".join(f"method.{view}.colour.{colour}" for view in VIEWS for colour in COLOURS): tune.uniform(0.0, 0.8),
    "method.measure.by": tune.choice(["token", "mean", "class", "token+class"]),
}
GOAL = "eval/knn_top1"
