"""Where a dataset lies: sample sets are made once per node."""

from pathlib import Path

import pytest

from mim_ray.data import place
from mim_ray.data.loader import Loader
from mim_ray.transforms.crop import CenterCrop


def test_a_sample_set_is_imported_once_and_found_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MIM_RAY_CACHE", str(tmp_path))
    made = place.local_beton("sample:shapes:n=20")
    written = made.stat().st_mtime_ns
    assert place.local_beton("sample:shapes:n=20") == made
    assert made.stat().st_mtime_ns == written
    assert place.local_beton("sample:shapes:n=21") != made


def test_the_loader_takes_a_sample_set_or_a_url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MIM_RAY_CACHE", str(tmp_path / "cache"))
    crop = CenterCrop(size=(32, 32), share=1.0)
    direct = Loader("sample:shapes:n=20", batch=10, crop=crop)
    remote = Loader(f"file://{direct.beton.path}", batch=10, crop=crop, stage="always")
    assert remote.beton.path != direct.beton.path
    a, b = next(direct.batches()), next(remote.batches())
    assert (a.crops[0] == b.crops[0]).all()
    assert set(direct.beton.labels) == {"label", "texture"}
