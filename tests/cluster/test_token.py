"""A driver takes up a token where the cluster wants one, and is told at once where that is refused."""

import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest
import ray
from ray.core.generated.gcs_service_pb2 import CheckAliveReply
from ray.core.generated.gcs_service_pb2_grpc import (
    NodeInfoGcsServiceServicer,
    add_NodeInfoGcsServiceServicer_to_server,
)
from ray.exceptions import AuthenticationError

from mim_ray import ray_train
from mim_ray.errors import Failure

SETTLE = """
import os, sys, ray
from mim_ray.ray_token import settle_token
try:
    settle_token(sys.argv[1])
    print(os.environ.get("RAY_AUTH_MODE"), ray._raylet.get_authentication_mode())
except (ValueError, RuntimeError) as error:
    print(type(error).__name__, error)
"""


class ControlStore(NodeInfoGcsServiceServicer):  # type: ignore[misc]
    """Answers as a cluster's does."""

    def __init__(self, token: str | None) -> None:
        self._token = token

    def CheckAlive(self, request: object, context: Any) -> Any:  # noqa: N802
        said = dict(context.invocation_metadata()).get("authorization")
        if self._token is not None and said != f"Bearer {self._token}":
            context.abort(grpc.StatusCode.UNAUTHENTICATED, "InvalidAuthToken")
        return CheckAliveReply()


@pytest.fixture(scope="module", params=["its-own", None], ids=["tokens", "open"])
def store(request: pytest.FixtureRequest) -> Iterator[tuple[str, bool]]:
    server = grpc.server(ThreadPoolExecutor(1))
    add_NodeInfoGcsServiceServicer_to_server(ControlStore(request.param), server)
    address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    yield address, request.param is not None
    server.stop(None).wait()


def settled(address: str, home: Path, **environment: str) -> str:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    return subprocess.run(
        [sys.executable, "-c", SETTLE, address],
        env={**kept, "HOME": str(home), **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    ).stdout.strip()


def test_the_token_in_the_home_is_taken_up_where_it_is_wanted(store: tuple[str, bool], tmp_path: Path) -> None:
    """Where it is not, the cluster's actors would not reach a driver that has taken it up."""
    address, wants = store
    file = tmp_path / ".ray" / "auth_token"
    file.parent.mkdir()
    file.write_text("its-own\n")
    assert settled(address, tmp_path) == ("token 1" if wants else "None 0")
    file.write_text("another\n")
    said = settled(address, tmp_path)
    assert said.startswith(f"Failure {address} refused the token of {file}, which" if wants else "None 0")
    assert "another" not in said


def test_a_token_that_is_wanted_and_not_there_is_told(store: tuple[str, bool], tmp_path: Path) -> None:
    address, wants = store
    assert settled(address, tmp_path).startswith(f"Failure {address} wants a token: set" if wants else "None 0")
    gone = settled(address, tmp_path, RAY_AUTH_TOKEN_PATH=f"{tmp_path}/gone")
    assert gone.startswith(f"Mistake RAY_AUTH_TOKEN_PATH={tmp_path}/gone: no file" if wants else "None 0")
    kept = settled(address, tmp_path, RAY_AUTH_MODE="disabled", RAY_AUTH_TOKEN="its-own")
    assert ("RAY_AUTH_MODE=disabled keeps it back" in kept) == wants
    said = settled(address, tmp_path, RAY_AUTH_MODE="token")
    assert said.startswith("Mistake RAY_AUTH_MODE=token: no token is here: set RAY_AUTH_TOKEN")


def test_connecting_settles_it_and_tells_a_refusal_in_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def refused(**_: object) -> None:
        raise AuthenticationError("no token")

    monkeypatch.setattr(ray_train, "settle_token", asked.append)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", refused)
    with (
        pytest.raises(Failure, match=r"^no Ray cluster at head:6379 \(no token"),
        ray_train.connected("head:6379"),
    ):
        pass
    assert asked == ["head:6379"]
