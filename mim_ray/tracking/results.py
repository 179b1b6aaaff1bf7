"""What a command measured, kept in MLflow as well as printed."""

import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mim_ray.errors import Failure
from mim_ray.tracking.run import DATABASE, create_run, end_run, resolved_uri
from mim_ray.tracking.server import connected, needed

EXPERIMENT = "mim_ray"


def in_use() -> bool:
    """Whether MLflow has been set up here, by its variable or by an earlier result in this folder."""
    return bool(os.environ.get("MLFLOW_TRACKING_URI")) or Path(DATABASE).exists()


def keep_result(
    command: str,
    *,
    params: Mapping[str, object],
    metrics: Mapping[str, float],
    documents: Mapping[str, dict[str, Any]],
    files: Sequence[Path] = (),
    uri: str | None = None,
) -> str | None:
    """A finished MLflow run with the numbers and the whole result; None, with a notice, where that cannot be."""
    uri = resolved_uri(uri)
    words = {name: str(value) for name, value in params.items()}
    try:
        run_id = create_run(uri, EXPERIMENT, command, words, {"mim_ray.command": command})
        with needed(uri):
            client = connected(uri)
            for name, value in metrics.items():
                client.log_metric(run_id, name, value)
            for name, document in documents.items():
                client.log_dict(run_id, document, name)
            for file in files:
                client.log_artifact(run_id, str(file))
        end_run(uri, run_id, "FINISHED")
        return run_id
    except Failure as failure:
        warnings.warn(f"this result is printed only: {failure}", stacklevel=2)
        return None
