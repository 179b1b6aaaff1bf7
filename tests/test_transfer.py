"""`benchmarks/transfer.py` in small: every row of its table is two runs in MLflow."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
from mlflow import MlflowClient

from tests.databases import fresh

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # MLflow's own
SCRIPT = Path(__file__).parent.parent / "benchmarks" / "transfer.py"


@pytest.fixture
def transfer() -> ModuleType:
    spec = importlib.util.spec_from_file_location("transfer", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_both_encoders_are_judged_alike(
    transfer: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", fresh(tmp_path))
    transfer.SETS["shapes"] = ("sample:shapes:n=128", "sample:shapes:n=40,split=val")
    short = {**transfer.FEW, "epochs": 1, "eval.every_epochs": 1, "per_class": 2, "batch": 16}
    linear, few = transfer.rows("shapes", [0], {"steps": 1, "batch": 64}, short)
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    runs = {run.info.run_name: run.data.metrics for run in client.search_runs(["1"])}
    for label in ("random", "trained"):
        assert runs["shapes-seed0"][f"probe/{label}"] == linear[label]
        assert runs[f"shapes-few-{label}-seed0"]["eval/top1"] == few[label]
    shares = f"{linear['random']:.3f} | {linear['trained']:.3f}"
    assert f"| shapes | linear | 0 | {shares} |" in transfer.table([linear, few])
