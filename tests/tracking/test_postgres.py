"""MLflow's server over PostgreSQL, as a team runs it: a run, what is best, a champion, and back. Where asked:

MIM_RAY_TEST_POSTGRES=1 make test
"""

import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from mlflow import MlflowClient

import mim_ray
from mim_ray import cli
from tests.tracking.servers import Server, free_port

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # MLflow's own
    pytest.mark.skipif("MIM_RAY_TEST_POSTGRES" not in os.environ, reason="MIM_RAY_TEST_POSTGRES=1 asks for it"),
]
USER, NAME = "postgres", "mlflow"


@pytest.fixture(scope="module")
def postgres() -> Iterator[str]:
    """The address of an empty database, which ends with the tests; the server refuses to be root."""
    programs = max(map(str, Path("/usr/lib/postgresql").glob("*/bin")))
    as_user = ["setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups"] if os.getuid() == 0 else []
    with TemporaryDirectory() as folder:
        if as_user:
            subprocess.run(["chown", USER, folder], check=True)
        data, port = f"{folder}/data", str(free_port())
        quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "cwd": folder}
        initdb = [*as_user, f"{programs}/initdb", "-D", data, "-U", NAME, "--auth=trust"]
        subprocess.run(initdb, check=True, **quiet)
        listening = ["-k", folder, "-h", "127.0.0.1", "-p", port]
        with subprocess.Popen(
            [*as_user, f"{programs}/postgres", "-D", data, *listening], stderr=subprocess.DEVNULL, **quiet
        ) as process:
            ready = [f"{programs}/pg_isready", "-h", "127.0.0.1", "-p", port]
            while subprocess.run(ready, **quiet).returncode:
                assert process.poll() is None
                time.sleep(0.2)
            subprocess.run([f"{programs}/createdb", "-h", "127.0.0.1", "-p", port, "-U", NAME, NAME], check=True)
            yield f"postgresql://{NAME}@127.0.0.1:{port}/{NAME}"
            process.terminate()


@pytest.fixture
def server(postgres: str, tmp_path: Path) -> Iterator[Server]:
    server = Server(tmp_path, postgres)
    server.wait()
    yield server
    server.kill()


def test_a_run_is_found_promoted_and_loaded(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    changes: dict[str, object] = {
        "encoder": "micro", "data.train": "sample:shapes:n=32", "data.backend": "torch", "batch": 8, "steps": 4,
        "workers": 0, "name": "team", "tracking.uri": server.uri, "tracking.model": "mim-encoder",
        "tracking.every_steps": 1, "schedule.warmup_epochs": 0.5,
    }  # fmt: skip
    result = mim_ray.train("mae", changes)
    assert (result["unsent"], result["model"]) == (0, "mim-encoder/1")
    history = MlflowClient(server.uri).get_metric_history(result["run_id"], "train/loss")
    assert [metric.step for metric in history] == [1, 2, 3, 4]
    for words in ("best --no-track", "compare team --no-track", "promote mim-encoder/1", "list"):
        assert cli.run(["models", *words.split(), "--uri", server.uri]) == 0
    assert "mim-encoder/1" in capsys.readouterr().out
    assert mim_ray.load("mim-encoder@champion", server.uri).card.run_id == result["run_id"]
