"""Measuring: the arithmetic of ratios. No test asserts a time."""

import json
from pathlib import Path

import pytest

from mim_ray import benches, cli
from mim_ray.bench import Measured, median_interval, paired


def test_the_sides_take_turns_and_the_median_ratio_is_given() -> None:
    calls: list[str] = []

    def side(name: str, rate: float) -> float:
        calls.append(name)
        return rate

    measured = paired("x", lambda: side("a", 3.0), lambda: side("b", 2.0), pairs=4, unit="u")
    assert measured == Measured(1.5, 1.5, 1.5, 4, "u")
    assert "".join(calls) == "ab" + "abba" * 2


def test_the_interval_of_a_median_is_that_of_order_statistics() -> None:
    assert median_interval([float(i) for i in range(9)]) == (1.0, 7.0)  # 96.1 % of the binomial with n = 9
    assert median_interval([3.0, 1.0, 2.0]) == (1.0, 3.0)
    assert median_interval([5.0]) == (5.0, 5.0)


def test_results_are_printed_recorded_and_tracked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = []
    monkeypatch.setattr(benches, "RATIOS", {"R1": lambda pairs: Measured(1.01, 1.0, 1.02, pairs, "u")})
    monkeypatch.setattr(benches, "keep_result", lambda _command, **result: kept.append(result))
    assert cli.run(["bench", "R1", "--pairs", "5", "--record", str(tmp_path), "--json"]) == 0
    row = {"ratio": 1.01, "low": 1.0, "high": 1.02, "pairs": 5, "unit": "u"}
    assert json.loads(capsys.readouterr().out) == {"R1": row}
    (record,) = tmp_path.iterdir()
    assert json.loads(record.read_text())["result"] == {"R1": row}
    assert kept[0]["metrics"] == {"bench/R1": 1.01}
    assert cli.run(["bench", "R77"]) == 2
    assert "no benchmark 'R77'" in capsys.readouterr().err


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # MLflow's own
def test_a_result_goes_to_mlflow_and_a_dead_server_only_costs_a_notice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow.tracking import MlflowClient

    from mim_ray.tracking.results import keep_result

    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    monkeypatch.chdir(tmp_path)
    run_id = keep_result(
        "bench", params={"cores": 2}, metrics={"bench/R1": 1.0}, documents={"bench.json": {"a": 1}}
    )
    assert run_id is not None
    assert MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}").get_run(run_id).data.metrics == {"bench/R1": 1.0}
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.warns(UserWarning, match="MLflow cannot be reached"):
        assert keep_result("bench", params={}, metrics={}, documents={}) is None
