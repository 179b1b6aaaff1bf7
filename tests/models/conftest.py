"""A folder of a user's, with a cache and an MLflow of its own."""

from pathlib import Path

import pytest

from tests.databases import fresh


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("MIM_RAY_CACHE", str(tmp_path / "cache"))
    fresh(tmp_path)
    return tmp_path
