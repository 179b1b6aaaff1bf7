"""A real MLflow server that may be killed."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import suppress
from pathlib import Path

from mim_ray.tracking.server import QUIET_AND_SOON


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


class Server:
    """`mlflow server` on a port of its own, ended by its process group."""

    def __init__(self, folder: Path, database: str | None = None) -> None:
        self._port = free_port()
        self._database = database or f"sqlite:///{folder}/server.db"
        self.folder, self.uri = folder, f"http://127.0.0.1:{self._port}"
        self.start()

    def start(self) -> None:
        artifacts = str(self.folder / "served")
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self._port)]
        options = ["--workers", "1", "--backend-store-uri", self._database, "--artifacts-destination", artifacts]
        with (self.folder / "server.log").open("a") as log:
            environment = {**os.environ, **QUIET_AND_SOON, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
            self._process = subprocess.Popen(
                [*command, *options], stdout=log, stderr=log, env=environment, start_new_session=True
            )

    def wait(self) -> None:
        for _ in range(2400):
            with suppress(OSError), urllib.request.urlopen(f"{self.uri}/health", timeout=1):
                return
            time.sleep(0.1)
        raise AssertionError((self.folder / "server.log").read_text())

    def tell(self, what: signal.Signals) -> None:
        os.killpg(self._process.pid, what)

    def kill(self) -> None:
        self.tell(signal.SIGKILL)
        self._process.wait()
