"""MLflow's database as it is when nothing is in it; to make one from nothing takes it seconds every time."""

import tempfile
import warnings
from functools import cache
from pathlib import Path

from mim_ray.tracking.server import connected


def fresh(folder: Path) -> str:
    """Its address, in a folder that had none: where a run finds it by itself."""
    (folder / "mlflow.db").write_bytes(_empty())
    return f"sqlite:///{folder}/mlflow.db"


@cache
def _empty() -> bytes:
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of MLflow about itself
        file = Path(folder, "mlflow.db")
        connected(f"sqlite:///{file}").search_experiments()
        return file.read_bytes()
