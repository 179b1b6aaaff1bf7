"""A run whose dataset and checkpoints lie in a bucket (an S3 server of this machine) goes on as one on a disk."""

import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from moto.server import ThreadedMotoServer

from mim_ray.data.place import local_beton
from mim_ray.ray_train import place_for_ray
from mim_ray.storage import Folder
from mim_ray.training.checkpoint import WHOLE
from mim_ray.training.job import job_of
from tests.training.runs import job_at, worked

BUCKET = "s3://mim"


def reach(url: str) -> None:
    os.environ |= {
        "AWS_ENDPOINT_URL": url,
        "AWS_ACCESS_KEY_ID": "nobody",
        "AWS_SECRET_ACCESS_KEY": "nothing",
        "AWS_DEFAULT_REGION": "us-east-1",
    }


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as changes:
        for name in ("AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION"):
            changes.setenv(name, "")
        reach(f"http://{host}:{port}")
        Folder(BUCKET).fs.mkdir("mim")
        yield f"http://{host}:{port}"
    server.stop()


def test_a_run_that_is_killed_goes_on_from_a_bucket(server: str, tmp_path: Path) -> None:
    plain = worked(job_at(tmp_path / "plain", "rmae", {}))
    assert plain.code == 0, plain.said
    Folder(BUCKET).fs.put_file(str(local_beton("sample:shapes:n=64")), "mim/shapes.beton")
    there: dict[str, Any] = {"storage": f"{BUCKET}/runs", "data.train": f"{BUCKET}/shapes.beton"}
    job, prepare = job_at(tmp_path / "there", "rmae", there), partial(reach, server)
    killed = worked(job, prepare=prepare, die_at=7)
    assert killed.code == -9, killed.said
    ended = worked(job, prepare=prepare)
    assert ended.code == 0, ended.said
    assert min(ended.losses) > 1
    assert ended.result["weights_sha256"] == plain.result["weights_sha256"]
    assert Folder(f"{BUCKET}/runs/run/checkpoints").names() == ["step-000000006", "step-000000008"]


def test_a_checkpoint_that_did_not_arrive_whole_is_passed_over(server: str, tmp_path: Path) -> None:
    job, prepare = job_at(tmp_path, "mae", {"storage": f"{BUCKET}/torn"}), partial(reach, server)
    assert worked(job, prepare=prepare, die_at=7).code == -9
    checkpoints = Folder(f"{BUCKET}/torn/run/checkpoints")
    newest = checkpoints.names()[-1]
    checkpoints.below(newest).fs.rm_file(f"mim/torn/run/checkpoints/{newest}/{WHOLE}")
    ended = worked(job, prepare=prepare)
    assert ended.code == 0, ended.said
    assert f"{newest} is torn and passed over" in ended.said


@pytest.mark.usefixtures("server")
def test_ray_keeps_its_notes_there_too(tmp_path: Path) -> None:
    job = job_of(job_at(tmp_path, "mae", {"storage": f"{BUCKET}/notes"}).read_bytes())
    place = place_for_ray(job.folder)
    with place["storage_filesystem"].open_output_stream(f"{place['storage_path']}/note") as file:
        file.write(b"here")
    assert Folder(f"{BUCKET}/notes/run/ray").read("note") == b"here"
