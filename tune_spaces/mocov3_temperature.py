"""Which temperature, which average and how small a crop does MoCo v3 want on your pictures?

Costs: as MoCo v3, several times MAE for each trial. Expect 0.1 to 0.3 for ViTs and up to 1 for ResNets; batch
matters as much.
"""

from ray import tune

METHOD = "mocov3"
SPACE = {
    "method.measure.temperature": tune.loguniform(0.05, 1.0),
    "method.target.momentum": tune.choice([0.9, 0.96, 0.99, 0.996]),
    "data.crop.scale": tune.choice([(0.08, 1.0), (0.2, 1.0), (0.5, 1.0)]),
}
GOAL = "eval/knn_top1"
