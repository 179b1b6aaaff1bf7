"""A run whose MLflow server is killed while it trains: it goes on, and every step is there once in the end."""

import json
import logging
from collections.abc import Callable
from pathlib import Path

import pytest
from mlflow import MlflowClient

from mim_ray.cli import run as mim_ray
from mim_ray.launch import train
from mim_ray.training import logbook
from mim_ray.training.live import Live
from mim_ray.training.place import Numbers
from mim_ray.training.reporter import MODEL_STEP
from tests.tracking.servers import Server
from tests.training.runs import ENTRIES_AT_THE_END

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # MLflow's own
    pytest.mark.timeout(900),
]
STEPS = 12
SMALL: dict[str, object] = {
    "eval.every_epochs": "none",
    "encoder": "micro",
    "data.train": "sample:shapes:n=32",
    "data.backend": "torch",
    "precision": "fp32",
    "batch": 8,
    "steps": STEPS,
    "workers": 0,
    "tracking.every_steps": 1,
    "checkpoint.every_steps": 4,
    "schedule.warmup_epochs": 0.5,
    "name": "run",
}


@pytest.fixture
def at(monkeypatch: pytest.MonkeyPatch) -> dict[int, Callable[[], None]]:
    """What is done after these steps are logged."""
    acts: dict[int, Callable[[], None]] = {}
    tell = Live.tell

    def told(self: Live, numbers: Numbers) -> None:
        tell(self, numbers)
        if "train/loss" in numbers:
            acts.pop(int(numbers["step"]), lambda: None)()

    monkeypatch.setattr(Live, "tell", told)
    return acts


def losses(uri: str, run_id: str) -> list[int]:
    return [metric.step for metric in MlflowClient(uri).get_metric_history(run_id, "train/loss")]


def test_the_server_comes_back_while_the_run_trains_and_again_after_it(
    server: Server,
    at: dict[int, Callable[[], None]],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def return_whole() -> None:
        server.start()
        server.wait()

    monkeypatch.setattr(logbook, "PATIENCE_SECONDS", 400.0)
    at |= {3: server.kill, 6: return_whole, 8: server.kill, STEPS: server.start}
    result = train("mae", {**SMALL, "tracking.uri": server.uri})
    assert (result["steps"], result["unsent"]) == (STEPS, 0)
    run = MlflowClient(server.uri).get_run(result["run_id"])
    assert run.info.status == "FINISHED"
    for key in set(run.data.metrics) - {MODEL_STEP}:
        steps = [metric.step for metric in MlflowClient(server.uri).get_metric_history(result["run_id"], key)]
        assert steps == list(range(1, STEPS + 1)), key
    assert "answers again: what was kept is sent" in caplog.text


def test_a_server_that_never_comes_back_is_said_and_costs_nothing(
    server: Server,
    at: dict[int, Callable[[], None]],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    """Later the run goes on where nothing is left to train, and sends what it has."""
    monkeypatch.setattr(logbook, "PATIENCE_SECONDS", 1.0)
    at[3] = server.kill
    words = [f"{path}={value}" for path, value in {**SMALL, "tracking.uri": server.uri}.items()]
    with caplog.at_level(logging.WARNING):
        assert mim_ray(["train", "mae", *words, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["steps"] == STEPS
    assert 9 <= result["unsent"] <= STEPS + ENTRIES_AT_THE_END
    journal = tmp_path / "runs" / "run" / "journal"
    assert f"MLflow lacks {result['unsent']} records of the run: they stay in {journal}" in caplog.text
    assert len((journal / "metrics.jsonl").read_text().splitlines()) == STEPS + ENTRIES_AT_THE_END
    assert mim_ray(["train", "--resume", "run", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["unsent"] == result["unsent"]
    assert "the run goes on, and what it logs is kept" in caplog.text
    server.start()
    server.wait()
    monkeypatch.setattr(logbook, "PATIENCE_SECONDS", 400.0)
    assert train(resume="run")["unsent"] == 0
    assert losses(server.uri, result["run_id"]) == list(range(1, STEPS + 1))
    assert MlflowClient(server.uri).get_run(result["run_id"]).info.status == "FINISHED"
