"""What a command measured, kept in MLflow as well as printed."""

import os
import warnings
from collections.abc import Mapping
from typing import Any

DEFAULT_URI = "sqlite:///mlflow.db"
EXPERIMENT = "mim_ray"


def keep_result(
    command: str,
    *,
    params: Mapping[str, object],
    metrics: Mapping[str, float],
    documents: Mapping[str, dict[str, Any]],
) -> str | None:
    """A finished MLflow run with the numbers and the whole result; None, with a notice, where that cannot be."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    try:
        import mlflow
        from mlflow.exceptions import MlflowException
    except ImportError:
        warnings.warn("MLflow is not installed: this result is printed only", stacklevel=2)
        return None
    uri = os.environ.get("MLFLOW_TRACKING_URI", DEFAULT_URI)
    try:
        mlflow.set_tracking_uri(uri)
        mlflow.set_experiment(EXPERIMENT)
        with mlflow.start_run(run_name=command, tags={"mim_ray.command": command}) as run:
            mlflow.log_params(dict(params))
            mlflow.log_metrics(dict(metrics))
            for name, document in documents.items():
                mlflow.log_dict(document, name)
            return str(run.info.run_id)
    except (MlflowException, OSError) as error:
        reason = " ".join(str(error).split())[:200]
        warnings.warn(f"MLflow cannot be reached: this result is printed only ({reason})", stacklevel=2)
        return None
