"""What a command measured, kept in MLflow as well as printed."""

import os
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

DATABASE = "mlflow.db"
DEFAULT_URI = f"sqlite:///{DATABASE}"
EXPERIMENT = "mim_ray"
QUIET_AND_SOON = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
}


def in_use() -> bool:
    """Whether MLflow has been set up here, by its variable or by an earlier result in this folder."""
    return bool(os.environ.get("MLFLOW_TRACKING_URI")) or Path(DATABASE).exists()


def keep_result(
    command: str,
    *,
    params: Mapping[str, object],
    metrics: Mapping[str, float],
    documents: Mapping[str, dict[str, Any]],
) -> str | None:
    """A finished MLflow run with the numbers and the whole result; None, with a notice, where that cannot be."""
    for name, value in QUIET_AND_SOON.items():
        os.environ.setdefault(name, value)
    try:
        import mlflow
    except ImportError:
        warnings.warn("MLflow is not installed: this result is printed only", stacklevel=2)
        return None
    uri = os.environ.get("MLFLOW_TRACKING_URI") or DEFAULT_URI
    try:
        mlflow.set_tracking_uri(uri)
        mlflow.set_experiment(EXPERIMENT)
        with mlflow.start_run(run_name=command, tags={"mim_ray.command": command}) as run:
            mlflow.log_params(dict(params))
            mlflow.log_metrics(dict(metrics))
            for name, document in documents.items():
                mlflow.log_dict(document, name)
            return str(run.info.run_id)
    except Exception as error:  # whatever it is, the result is already printed
        reason = _without_secrets(" ".join(str(error).split()))[:200]
        warnings.warn(f"MLflow cannot be reached: this result is printed only ({reason})", stacklevel=2)
        return None


def _without_secrets(text: str) -> str:
    """Without user and password, and without queries, which may hold a token."""
    return re.sub(r"(?<=//)\S*@|\?\S*", "", text)
