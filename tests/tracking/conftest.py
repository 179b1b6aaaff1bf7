"""A real MLflow server that may be killed, a database without a server, and runs in both."""

from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from mim_ray.tracking import sender
from mim_ray.tracking.run import create_run
from mim_ray.tracking.server import QUIET_AND_SOON
from tests.tracking.servers import Server

RunMaker = Callable[[str], str]


@pytest.fixture(scope="session", autouse=True)
def starting_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Starts while the tests that need none are running, for it takes long."""
    server = Server(tmp_path_factory.mktemp("server"))
    yield server
    with suppress(ProcessLookupError):  # a test may have ended with it gone
        server.kill()


@pytest.fixture
def server(starting_server: Server) -> Server:
    starting_server.wait()
    return starting_server


@pytest.fixture(scope="session")
def database(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"sqlite:///{tmp_path_factory.mktemp('database') / 'mlflow.db'}"


@pytest.fixture(autouse=True)
def quick_and_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name, value in QUIET_AND_SOON.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setattr(sender, "GATHERING_SECONDS", 0.02)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def new_run() -> RunMaker:
    return lambda uri: create_run(uri, "tests", "a run", {}, {})
