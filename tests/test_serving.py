"""`mlflow models serve` on the encoder of a run: a picture over HTTP, its feature back."""

import base64
import io
import json
import math
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import mim_ray
from mim_ray.data.importer import Import, import_set
from mim_ray.data.sources import open_source
from mim_ray.models import PICKLES, load
from mim_ray.serving import opened
from mim_ray.tracking.server import QUIET_AND_SOON

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # MLflow's own
SECONDS = 120.0
LICENCE = "CC BY 4.0, of those who drew them"
REFUSED = "image: expected the bytes of a picture file, whole, in base64"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run's encoder, as it lies among the artifacts."""
    here = tmp_path_factory.mktemp("served")
    words = {"name": "first", "encoder": "micro", "batch": 24, "steps": 2, "workers": 0, "data.backend": "torch"}
    places = {"storage": str(here / "runs"), "tracking.uri": f"sqlite:///{here}/mlflow.db"}
    beton = here / "train.beton"
    import_set(open_source("sample:shapes:n=48"), beton, Import(workers=1, licence=LICENCE))
    before = Path.cwd()
    os.chdir(here)  # MLflow keeps the artifacts of a database in the current folder
    try:
        mim_ray.train("mae", {**words, **places, "data.train": str(beton)})
    finally:
        os.chdir(before)
    return next(here.glob("mlruns/*/*/artifacts/encoder"))


@pytest.fixture(scope="module")
def address(trained: Path) -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = ["-m", "mlflow", "models", "serve", "-m", str(trained), "--env-manager", "local", "--port", str(port)]
    log = (trained.parent / "server.log").open("w")
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # it starts uvicorn by name
    environment = {**os.environ, **QUIET_AND_SOON, "PATH": path}
    command = [sys.executable, *words, "--host", "127.0.0.1"]
    process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
    deadline = time.monotonic() + SECONDS
    try:
        while True:
            with suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/ping", timeout=2):
                break
            assert process.poll() is None, (trained.parent / "server.log").read_text()
            assert time.monotonic() < deadline, (trained.parent / "server.log").read_text()
            time.sleep(0.2)
        yield f"http://127.0.0.1:{port}/invocations"
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        process.wait(SECONDS)
        log.close()


def asked(address: str, *images: object) -> Any:
    body = {"dataframe_split": {"columns": ["image"], "data": [[image] for image in images]}}
    request = urllib.request.Request(address, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=SECONDS) as answer:
        return json.loads(answer.read())


def test_a_picture_is_answered_with_its_feature(trained: Path, address: str) -> None:
    pictures, texts = [], []
    for seed, size in ((0, (40, 32)), (1, (32, 50))):
        pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
        pictures.append(Image.fromarray(pixels))
        file = io.BytesIO()
        pictures[-1].save(file, "PNG")
        texts.append(base64.b64encode(file.getvalue()).decode())
    encoder = load(trained)
    with torch.no_grad():
        wanted = encoder(torch.stack([encoder.transform(picture) for picture in pictures]))
    found = torch.tensor(asked(address, *texts)["predictions"])
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
    for broken in ("no picture", texts[0][: len(texts[0]) // 8 * 4], None):
        with pytest.raises(urllib.error.HTTPError) as refusal:
            asked(address, texts[1], broken)
        assert REFUSED in refusal.value.read().decode()


def test_the_card_has_the_licence_of_the_data(trained: Path) -> None:
    assert load(trained).card.licence == LICENCE
    assert f"its licence: {LICENCE} |" in (trained / "README.md").read_text()


def file(form: str) -> bytes:
    content = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(content, form)
    return content.getvalue()


@pytest.mark.parametrize("form", ["JPEG", "PNG", "GIF", "TIFF", "WEBP", "BMP"])
def test_half_a_picture_is_refused_in_words(form: str) -> None:
    whole = file(form)
    assert opened(base64.b64encode(whole).decode()).size == (40, 40)
    with pytest.raises(ValueError, match=REFUSED):
        opened(base64.b64encode(whole[: len(whole) // 2]).decode())


@pytest.mark.parametrize("sent", [None, 3, 0.5, math.nan, "", " ", "é", "####", b"", [], {"b64": ""}, np.int64(3)])
def test_what_is_no_picture_is_refused_in_words(sent: object) -> None:
    with pytest.raises(ValueError, match=REFUSED):
        opened(sent)


def test_nothing_of_it_is_a_pickle(trained: Path) -> None:
    files = {path.name for path in trained.iterdir()}
    assert files == {
        "MLmodel", "README.md", "encoder.json", "encoder.safetensors", "example.safetensors", "input_example.json",
        "python_env.yaml", "requirements.txt",
    }  # fmt: skip
    assert not {path.suffix for path in trained.iterdir()} & PICKLES
    assert "loader_module: mim_ray.serving" in (trained / "MLmodel").read_text()
