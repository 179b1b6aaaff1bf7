"""Small runs in this process, in an MLflow."""

from typing import Any

import mim_ray

WORDS: dict[str, object] = {
    "encoder": "micro", "method.measure.head": "linear", "data.train": "sample:shapes:n=48", "batch": 24,
    "epochs": 5, "tracking.every_steps": 2, "checkpoint.every_steps": 2, "eval.every_epochs": 1, "workers": 0,
    "method.encoder.hidden": "replace", "precision": "fp32",
}  # fmt: skip


def trained(name: str, **changes: object) -> dict[str, Any]:
    return mim_ray.train("mae", {**WORDS, "name": name, **{k.replace("__", "."): v for k, v in changes.items()}})
