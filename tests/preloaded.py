"""What a forked process need not import: torch with all that an optimiser takes in, MLflow with its stores."""

import importlib
import os

from mim_ray.tracking.server import QUIET_AND_SOON

os.environ.update(QUIET_AND_SOON)
for name in (
    "matplotlib.figure",
    "mim_ray.judge",
    "mim_ray.training.worker",
    "mlflow.artifacts",
    "mlflow.store.model_registry.sqlalchemy_store",
    "mlflow.store.tracking.sqlalchemy_store",
    "timm.optim",
    "torch._dynamo",
):
    importlib.import_module(name)
