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
    short = {"epochs": 1, "eval.every_epochs": 1, "batch": 16, "per_class": 2}
    transfer.PROTOCOLS.update(linear={**short, "per_class": None}, fewshot=short)
    found = transfer.rows("shapes", 1, {"steps": 1})
    assert [row["protocol"] for row in found] == ["linear", "fewshot"]
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    runs = {run.info.run_name: run.data.metrics for run in client.search_runs(["1"])}
    for row in found:
        for label in ("random", "trained"):
            assert runs[f"shapes-{row['protocol']}-{label}-seed0"]["eval/top1"] == row[label]
    shares = f"{found[0]['random']:.3f} | {found[0]['trained']:.3f}"
    assert f"| shapes | linear | 0 | {shares} |" in transfer.table(found)
