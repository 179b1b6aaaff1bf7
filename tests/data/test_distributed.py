"""Two real processes: when one rank's loader fails, it raises its own error and neither rank hangs."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from mim_ray.data.beton import Beton
from mim_ray.data.importer import Import, import_set
from mim_ray.data.sources import open_source

RANK = """
import sys, torch, torch.distributed as dist
from mim_ray.data.loader import Loader
from mim_ray.transforms.crop import RandomCrop
rank, path, store = int(sys.argv[1]), sys.argv[2], sys.argv[3]
dist.init_process_group("gloo", init_method="file://" + store, rank=rank, world_size=2)
loader = Loader(path, batch=8, crop=RandomCrop(size=(32, 32)), rank=rank, world=2, threads=1)
for batch in loader.batches(0, 100):
    dist.all_reduce(batch.crops[0].float().mean())
"""


@pytest.fixture
def beton(tmp_path: Path) -> Path:
    path = tmp_path / "shapes.beton"
    import_set(open_source("sample:shapes:n=64"), path, Import(workers=1))
    return path


def test_a_rank_that_fails_says_why_and_the_other_ends_too(beton: Path, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged.beton"
    data, whole = bytearray(beton.read_bytes()), Beton.open(beton)
    for sample in range(len(whole)):
        start, size = int(whole.pointer[sample]), int(whole.size[sample])
        data[start : start + size] = bytes(size)
    damaged.write_bytes(bytes(data))
    began = time.monotonic()
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", RANK, str(rank), str(path), str(tmp_path / "store")],
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank, path in enumerate((beton, damaged))
    ]
    errors = [rank.communicate(timeout=120)[1] for rank in ranks]
    assert all(rank.returncode for rank in ranks)
    assert "is not a sound picture: run mim-ray data verify" in errors[1]
    assert "onnection" in errors[0]
    assert time.monotonic() - began < 100
