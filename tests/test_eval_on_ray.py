"""Evaluation and embedding by two Ray workers: the same numbers as by one process."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from mim_ray.embed import embed
from mim_ray.judge import evaluate
from mim_ray.ray_train import connected
from tests.databases import fresh

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # MLflow's own
WORDS: dict[str, object] = {"data.backend": "torch", "precision": "fp32"}
SETS = {"data.train": "sample:shapes:n=120", "data.val": "sample:shapes:n=41,split=val"}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", fresh(tmp_path))
    with connected("local"):
        yield tmp_path


def test_two_workers_find_what_one_process_finds(here: Path) -> None:
    found = {}
    for workers in (0, 2):
        words = {**WORDS, **SETS, "batch": 24, "epochs": 2, "workers": workers, "name": f"by{workers}"}
        found[workers] = evaluate("linear", "random:micro", words)["metrics"]
        out = here / f"by{workers}.parquet"
        made = embed("random:micro", SETS["data.val"], out, words={**WORDS, "workers": workers})
        assert made["samples"] == 41
    assert found[2].keys() == found[0].keys()
    assert found[2]["eval/top1"] == pytest.approx(found[0]["eval/top1"], abs=1.5 / 41)
    columns = [np.stack(pq.read_table(here / f"by{workers}.parquet")["feature"].to_pylist()) for workers in (0, 2)]
    np.testing.assert_allclose(columns[1], columns[0], rtol=1e-4, atol=1e-5)
