"""The doctor: every state of every finding, and no secret on the screen."""

import json
import os
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from mim_ray import cli, doctor, output
from mim_ray.data import native
from mim_ray.data.beton import BetonWriter, Mode
from mim_ray.doctor import Finding, examine
from mim_ray.errors import Mistake
from mim_ray.run import Run
from mim_ray.training.step import wants_bf16

WHAT = ["python", "compiler", "ffcv", "torch", "bf16", "ray", "mlflow", "machine"]


@pytest.fixture(autouse=True)
def plain_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """With enough of everything, a compiler among it, and no servers."""
    for name in ("RAY_ADDRESS", "MLFLOW_TRACKING_URI", "http_proxy", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(native, "missing", lambda: None)
    monkeypatch.setattr(doctor, "available_bytes", lambda: 64 * 10**9)
    monkeypatch.setattr(doctor, "REACH_SECONDS", 0.5)
    monkeypatch.setattr(doctor, "version", lambda _: "1.0")
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: SimpleNamespace(returncode=0))
    monkeypatch.chdir(tmp_path)


def finding(what: str, beton: Path | None = None) -> Finding:
    return next(each for each in examine(beton) if each.what == what)


def test_a_good_machine_is_found_good(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["doctor", "--json"]) == 0
    findings = json.loads(capsys.readouterr().out)["findings"]
    assert [each["what"] for each in findings] == WHAT
    assert all(list(each) == ["what", "state", "found", "remedy"] for each in findings)
    assert all(each["state"] == "ok" for each in findings if each["what"] != "bf16")
    assert cli.run(["doctor"]) == 0
    assert "mlflow" in capsys.readouterr().out


def test_a_failure_makes_exit_code_1(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(doctor, "OLDEST_PYTHON", (99, 0))
    assert cli.run(["doctor", "--json"]) == 1
    first = json.loads(capsys.readouterr().out)["findings"][0]
    assert (first["what"], first["state"]) == ("python", "failure")
    assert first["remedy"] == "install Python 3.11 or newer, then make setup"


def test_the_findings_are_kept_where_mlflow_is_in_use_and_well(
    monkeypatch: pytest.MonkeyPatch, server: str, nobody: str
) -> None:
    kept = []
    monkeypatch.setattr(output, "keep_result", lambda _command, **result: kept.append(result))
    monkeypatch.setattr(doctor, "OLDEST_PYTHON", (99, 0))
    cli.run(["doctor"])
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://{nobody}")
    cli.run(["doctor"])
    assert kept == []
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://{server}")
    cli.run(["doctor", "--no-track"])
    assert kept == []
    assert cli.run(["doctor"]) == 1
    findings = kept[0]["documents"]["doctor.json"]["findings"]
    assert [each["what"] for each in findings] == WHAT
    assert sum(kept[0]["metrics"].values()) == len(WHAT)
    assert kept[0]["metrics"]["doctor/failure"] == 1


# Engines


@pytest.mark.parametrize(("reason", "state"), [(None, "warning"), ("ffcv is not installed", "failure")])
def test_without_a_compiler(monkeypatch: pytest.MonkeyPatch, reason: str | None, state: str) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None if name == "g++" else f"/usr/bin/{name}")
    monkeypatch.setattr(native, "missing", lambda: reason)
    found = finding("compiler")
    assert (found.state, found.remedy) == (state, doctor.APT)
    assert found.found == "g++ not found (needed to build FFCV)"


def test_without_headers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subprocess, "run", lambda words, **_: SimpleNamespace(returncode="libturbojpeg" in words))
    assert finding("compiler").found == "libturbojpeg not found (needed to build FFCV)"


def test_without_ffcv(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "missing", lambda: "ffcv is not installed")
    found = finding("ffcv")
    assert found.state == "warning"
    assert found.found == "ffcv is not installed: loading falls back to PyTorch, several times slower"
    assert found.remedy == f"{doctor.APT} && make setup"


@pytest.mark.parametrize("package", ["ray", "mlflow"])
def test_without_a_package(monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    monkeypatch.setattr(doctor, "_installed", lambda name: None if name == package else "1.0")
    assert finding(package)[1:] == ("failure", "not installed", "make setup")


@pytest.mark.parametrize("flag", ["avx512_bf16", "amx_bf16", "bf16", "avx512_vnni"])
def test_bf16_on_a_cpu(monkeypatch: pytest.MonkeyPatch, flag: str) -> None:
    """The doctor says what training does; oneDNN offers to emulate it on the last of them, too."""
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(Path, "read_text", lambda _: f"flags : sse4_2 {flag} avx2")
    has = flag != "avx512_vnni"
    assert finding("bf16").state == ("ok" if has else "warning")
    assert wants_bf16(Run(), torch.device("cpu")) == has
    assert "CPU with" in finding("torch").found


@pytest.mark.parametrize("bf16", [True, False])
def test_on_a_gpu(monkeypatch: pytest.MonkeyPatch, bf16: bool) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda i: f"GPU {i}")
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: bf16)
    assert finding("torch").found.endswith("CUDA: GPU 0, GPU 1")
    assert finding("bf16").state == ("ok" if bf16 else "warning")


# Servers


class Healthy(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/health" else 404)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def server() -> Iterator[str]:
    """host:port of something that answers."""
    with HTTPServer(("127.0.0.1", 0), Healthy) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.fixture
def nobody() -> Iterator[str]:
    """host:port where nothing listens."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield "{}:{}".format(*bound.getsockname())


@pytest.mark.parametrize("address", ["", "auto", "local"])
def test_without_a_cluster(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    monkeypatch.setenv("RAY_ADDRESS", address)
    assert finding("ray")[1:3] == ("ok", "1.0, RAY_ADDRESS names no cluster: a local Ray is started when needed")


@pytest.mark.parametrize("scheme", ["", "ray://", "http://"])
def test_a_cluster_that_answers_and_one_that_does_not(
    monkeypatch: pytest.MonkeyPatch, server: str, nobody: str, scheme: str
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", scheme + server)
    assert finding("ray")[1:3] == ("ok", f"1.0, cluster at {scheme}{server} answers")
    monkeypatch.setenv("RAY_ADDRESS", scheme + nobody)
    assert finding("ray")[1:] == (
        "failure",
        f"1.0, no answer from RAY_ADDRESS={scheme}{nobody}",
        "start the cluster or unset RAY_ADDRESS",
    )


@pytest.mark.parametrize("address", ["ray://head:port", "what://head", "://", "[::1", "ray://"])
def test_an_address_that_is_none_is_a_failure(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    monkeypatch.setenv("RAY_ADDRESS", address)
    assert finding("ray").state == "failure"


@pytest.mark.parametrize(("address", "port"), [("head", 6379), ("ray://head", 10001), ("http://head", 8265)])
def test_a_port_left_out_is_that_of_the_scheme(monkeypatch: pytest.MonkeyPatch, address: str, port: int) -> None:
    asked = []

    def connect(place: tuple[str, int], _: float) -> Any:
        asked.append(place)
        raise ConnectionRefusedError

    monkeypatch.setenv("RAY_ADDRESS", address)
    monkeypatch.setattr(socket, "create_connection", connect)
    finding("ray")
    assert asked == [("head", port)]


@pytest.mark.parametrize("secret", ["", "user:hunter2@", "user:hun/ter2@", "user:hun?ter2@", "hunter2@"])
def test_a_tracking_server_that_answers(monkeypatch: pytest.MonkeyPatch, server: str, secret: str) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://{secret}{server}/")
    assert finding("mlflow")[1:3] == ("ok", f"1.0, http://{server}/ answers 200")


def test_a_tracking_server_that_does_not_answer(monkeypatch: pytest.MonkeyPatch, server: str, nobody: str) -> None:
    for uri, why in ((f"http://{nobody}", "refused"), (f"http://{server}/elsewhere", "Not Found")):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        found = finding("mlflow")
        assert (found.state, found.remedy) == ("failure", "start the server or unset MLFLOW_TRACKING_URI")
        assert found.found.startswith(f"1.0, {uri}: ")
        assert why in found.found


@pytest.mark.parametrize(
    "uri",
    [
        "http://user:hunter2@nobody.invalid",
        "http://user:hunter2@nobody.invalid:port",
        "https://user:hunt er2@[::1",
        "http://nobody.invalid/?token=hunter2",
        "postgresql://user:hunter2@db/mlflow",
        "postgresql://db/mlflow?password=hunter2",
        "ray://user:hunter2@nobody.invalid:1",
    ],
)
def test_secrets_are_never_printed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], uri: str
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setenv("RAY_ADDRESS", uri)
    for words in (["doctor"], ["doctor", "--json"]):
        assert cli.run(words) == 1
        said = capsys.readouterr()
        assert "hunter2" not in said.out + said.err
        assert "er2" not in said.out + said.err
        assert not said.err


def test_a_tracking_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert finding("mlflow")[1:3] == ("ok", f"1.0, sqlite:///mlflow.db in {tmp_path}")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/a@b/mlflow.db")
    assert finding("mlflow")[1:] == (
        "failure",
        f"1.0, {tmp_path}/a@b cannot be written",
        "set MLFLOW_TRACKING_URI",
    )
    (tmp_path / "a@b").mkdir()
    assert finding("mlflow").state == "ok"
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert finding("mlflow").state == "failure"


def test_a_tracking_place_of_another_kind_is_not_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "databricks://profile")
    assert finding("mlflow")[1:3] == ("warning", "1.0, databricks://profile is not tried here")


# Memory


def test_little_memory_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "available_bytes", lambda: 10**9)
    found = finding("machine")
    assert found.state == "warning"
    assert found.found.endswith("1 GB of memory free")


def test_a_dataset_and_the_page_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    beton = tmp_path / "set.beton"
    with BetonWriter(beton, [], 1) as writer:
        writer.add(Mode.RAW, (1, 1), [], b"rgb", "one")
    assert finding("page cache", beton)[1:3] == (
        "ok",
        "set.beton is 8.39 MB, 64 GB of memory free: read from disk once",
    )
    monkeypatch.setattr(doctor, "available_bytes", lambda: 10**6)
    found = finding("page cache", beton)
    assert (found.state, found.found) == ("warning", "set.beton is 8.39 MB, 1 MB of memory free")
    assert "max_resolution=" in found.remedy
    with pytest.raises(Mistake, match="no file"):
        finding("page cache", tmp_path / "none.beton")
