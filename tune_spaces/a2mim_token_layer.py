"""Where should A²MIM's token enter, added to the features or instead of them, and how much do spectra count?

The paper puts it in the middle and its published code on the patch embedding. The layers are those of the
encoder that you name: all but the last one, stages for a CNN.

Costs: the same for each trial, as A²MIM. Expect the layer to matter most, and λ least.
"""

from typing import Any

from ray import tune

METHOD = "a2mim"
GOAL = "eval/knn_top1"


def space(run: Any) -> dict[str, Any]:
    return {
        "method.encoder.at": tune.choice(list(run.method.encoder.entries)),
        "method.encoder.hidden": tune.choice(["add", "replace"]),
        "method.measure.fourier.weight": tune.loguniform(0.05, 2.0),
    }
