"""Which method, each at its own published settings, is best on your pictures in your number of epochs?

Costs: from MAE's to several times it; the plan says what. Expect contrastive methods to lead frozen features
early, and masked modelling to need more epochs or fine-tuning. One seed decides little: use finalists= and
seeds=.
"""

from ray import tune

METHOD = "mae"
SPACE = {
    "method": tune.choice(["mae", "rmae", "rmae_25", "rmae_0", "cmae", "simmim", "a2mim", "mocov3", "byol"]),
}
GOAL = "eval/knn_top1"
