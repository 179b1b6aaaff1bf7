"""How strong should R-MAE's constraint be, for how much hidden on either side?

The paper leaves it open ("the trade-off by the choice of λ … we will investigate"): λ from almost none to
more than the reconstruction, T1 hiding 50 to 90 %, T2 hiding by a draw of its own, nothing to 75 %.

Costs: up to twice MAE for each trial, most where T2 hides least. Expect a plateau over an order of magnitude
in λ, with too much of it pulling all features together (watch collapse/feature_spread), and T2's ratio to
matter less than T1's.
"""

from ray import tune

METHOD = "rmae_25"
SPACE = {
    "method.measure.penalty": tune.loguniform(1e-3, 10.0),
    "method.t1.mask.ratio": tune.choice([0.5, 0.6, 0.75, 0.9]),
    "method.t2.mask.ratio": tune.choice([0.0, 0.25, 0.5, 0.75]),
}
GOAL = "eval/knn_top1"
