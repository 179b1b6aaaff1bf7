"""`mim-ray doctor`: what this machine has, what is missing, and the line that mends it."""

import importlib.util
import os
import platform
import shutil
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from http.client import HTTPException
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal, NamedTuple
from urllib.parse import urlsplit

import torch

from mim_ray.data import native
from mim_ray.data.beton import Beton
from mim_ray.data.memory import available_bytes, in_words
from mim_ray.errors import without_secrets
from mim_ray.precision import has_bf16

APT = "apt-get install pkg-config libopencv-dev libturbojpeg0-dev g++ python3-dev"
REACH_SECONDS = 3.0
RAY_PORTS = {"": 6379, "ray": 10001, "http": 8265, "https": 443}
OLDEST_PYTHON = (3, 11)
LEAST_MEMORY = 4e9


class Finding(NamedTuple):
    what: str
    state: Literal["ok", "warning", "failure"]
    found: str
    remedy: str = ""


def examine(beton: Path | None = None) -> Iterator[Finding]:
    yield _python()
    yield _compiler()
    yield _ffcv()
    yield from _torch()
    yield _ray()
    yield _mlflow()
    yield _machine()
    if beton is not None:
        yield _page_cache(Beton.open(beton))


def _python() -> Finding:
    found = f"{platform.python_version()} at {sys.executable}"
    if sys.version_info < OLDEST_PYTHON:
        return Finding("python", "failure", found, "install Python 3.11 or newer, then make setup")
    return Finding("python", "ok", found)


def _compiler() -> Finding:
    """FFCV arrives as source: needed to install it, not to run it."""
    missing = [name for name in ("g++", "pkg-config") if shutil.which(name) is None]
    if not missing:
        for library in ("opencv4", "libturbojpeg"):
            asked = subprocess.run(["pkg-config", "--exists", library], check=False)
            missing += [library] * (asked.returncode != 0)
    if not missing:
        return Finding("compiler", "ok", "g++, pkg-config, OpenCV and libjpeg-turbo headers")
    state: Literal["warning", "failure"] = "warning" if native.missing() is None else "failure"
    return Finding("compiler", state, f"{', '.join(missing)} not found (needed to build FFCV)", APT)


def _ffcv() -> Finding:
    reason = native.missing()
    if reason is None:
        return Finding("ffcv", "ok", f"{version('ffcv')}, native library loads")
    return Finding(
        "ffcv",
        "warning",
        f"{reason}: loading falls back to PyTorch, several times slower",
        APT + " && make setup",
    )


def _torch() -> Iterator[Finding]:
    if torch.cuda.is_available():
        names = ", ".join(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count()))
        yield Finding("torch", "ok", f"{torch.__version__}, CUDA: {names}")
    else:
        yield Finding("torch", "ok", f"{torch.__version__}, CPU with {torch.get_num_threads()} threads")
    if has_bf16(torch.device("cuda" if torch.cuda.is_available() else "cpu")):
        yield Finding("bf16", "ok", "in hardware")
    else:
        yield Finding(
            "bf16",
            "warning",
            "not in hardware: training runs in fp32",
            "a GPU since Ampere or a CPU with AVX512-BF16",
        )


def _ray() -> Finding:
    found = _installed("ray")
    if found is None:
        return Finding("ray", "failure", "not installed", "make setup")
    address = without_secrets(os.environ.get("RAY_ADDRESS", ""))
    if address in ("", "auto", "local"):
        return Finding("ray", "ok", f"{found}, RAY_ADDRESS names no cluster: a local Ray is started when needed")
    if _reachable(address):
        return Finding("ray", "ok", f"{found}, cluster at {address} answers")
    what = f"{found}, no answer from RAY_ADDRESS={address}"
    return Finding("ray", "failure", what, "start the cluster or unset RAY_ADDRESS")


def _mlflow() -> Finding:
    found = _installed("mlflow")
    if found is None:
        return Finding("mlflow", "failure", "not installed", "make setup")
    uri = without_secrets(os.environ.get("MLFLOW_TRACKING_URI") or "sqlite:///mlflow.db")
    if uri.startswith("sqlite:///"):
        folder = Path(uri.removeprefix("sqlite:///")).resolve().parent
        if folder.is_dir() and os.access(folder, os.W_OK):
            return Finding("mlflow", "ok", f"{found}, {uri} in {folder}")
        return Finding("mlflow", "failure", f"{found}, {folder} cannot be written", "set MLFLOW_TRACKING_URI")
    if not uri.startswith(("http://", "https://")):
        return Finding("mlflow", "warning", f"{found}, {uri} is not tried here", "")
    try:
        with urllib.request.urlopen(f"{uri.rstrip('/')}/health", timeout=REACH_SECONDS) as answer:
            return Finding("mlflow", "ok", f"{found}, {uri} answers {answer.status}")
    except (OSError, ValueError, HTTPException) as error:
        what = f"{found}, {uri}: {getattr(error, 'reason', error)}"
        return Finding("mlflow", "failure", what, "start the server or unset MLFLOW_TRACKING_URI")


def _machine() -> Finding:
    free = available_bytes()
    found = f"{len(os.sched_getaffinity(0))} cores, {in_words(free)} of memory free"
    if free < LEAST_MEMORY:
        return Finding("machine", "warning", found, "close something, or train with a smaller batch=")
    return Finding("machine", "ok", found)


def _page_cache(beton: Beton) -> Finding:
    size, free = beton.path.stat().st_size, available_bytes()
    found = f"{beton.path.name} is {in_words(size)}, {in_words(free)} of memory free"
    if size < free:
        return Finding("page cache", "ok", f"{found}: read from disk once")
    remedy = "import with a smaller max_resolution=, or expect every epoch to read the disk"
    return Finding("page cache", "warning", found, remedy)


def _installed(package: str) -> str | None:
    try:
        return version(package) if importlib.util.find_spec(package) else None
    except PackageNotFoundError:
        return None


def _reachable(address: str) -> bool:
    try:
        place = urlsplit(address if "://" in address else f"//{address}")
        with socket.create_connection((str(place.hostname), place.port or RAY_PORTS[place.scheme]), REACH_SECONDS):
            return True
    except (OSError, ValueError, KeyError):
        return False
