"""`mim-ray demo` in small: every part of it runs, and what it prints is in MLflow."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from PIL import Image

import mim_ray
from mim_ray import cli, demo
from mim_ray.methods import resolved

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # MLflow's own


def test_it_ends_with_a_model_that_can_be_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    small: dict[str, Any] = {
        "pictures": {"train": 160, "val": 80},
        "changes": {"workers": 0, "steps": 2, "batch": 80},
    }
    run_demo = demo.demo
    monkeypatch.setattr(demo, "demo", lambda folder, track: run_demo(folder, track=track, **small))
    assert cli.run(["demo", "out"]) == 0
    said = capsys.readouterr().out
    assert "2 steps on 240 generated pictures" in said
    assert "in MLflow (mlflow ui --backend-store-uri sqlite:///mlflow.db)\n" in said
    (line,) = [line for line in said.splitlines() if line.startswith("Load it:")]
    command = line.removeprefix("Load it:").strip().replace("python", sys.executable, 1)
    card = subprocess.check_output(command, shell=True, text=True, cwd=tmp_path, env=dict(os.environ))
    assert "method='rmae'" in card
    with Image.open("out/reconstructions.png") as picture:
        assert picture.width > 5 * 32
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    run_id = mim_ray.load("mim-encoder/1").card.run_id
    metrics = client.get_run(str(run_id)).data.metrics
    for name in ("shape", "texture"):
        shares = [100 * metrics[f"probe/{name}_{when}"] for when in ("random", "trained")]
        assert f"{name} {shares[0]:.1f} → {shares[1]:.1f} %" in said
    assert cli.run(["demo", "out", "--json", "--no-track"]) == 0
    again = json.loads(capsys.readouterr().out)
    assert (again["run_id"], again["model"]) == (None, None)


def test_its_last_words_name_the_server_that_has_the_model(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ("steps", "samples", "beton", "workers", "seconds", "picture", "name", "checkpoint")
    result = {"probe": {}, "model": "mim-encoder/1", **dict.fromkeys(names, 1)}
    monkeypatch.setattr(demo, "demo", lambda *_, **__: result)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:secret@tracking.example:5000")
    assert cli.run(["demo"]) == 0
    assert "registered in MLflow (http://tracking.example:5000)\n" in capsys.readouterr().out


def test_its_words_are_a_run() -> None:
    assert resolved(demo.METHOD, demo.SETTINGS).steps == 200
