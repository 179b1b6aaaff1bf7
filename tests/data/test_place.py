"""Where a dataset lies: sample sets are made once per node."""

from pathlib import Path

import pytest

from mim_ray.data import place
from mim_ray.data.beton import Beton
from mim_ray.data.loader import Backend, Loader
from mim_ray.data.verify import verify
from mim_ray.errors import Failure
from mim_ray.transforms.crop import CenterCrop


def test_a_sample_set_is_imported_once_and_found_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MIM_RAY_CACHE", str(tmp_path))
    made = place.local_beton("sample:shapes:n=20")
    written = made.stat().st_mtime_ns
    assert place.local_beton("sample:shapes:n=20") == made
    assert made.stat().st_mtime_ns == written
    assert made.parent == tmp_path / "samples"
    assert place.local_beton("sample:shapes:n=21") != made
    monkeypatch.setattr(place, "version", lambda package: {"pillow": "99.0"}.get(package, "1.0"))
    after_an_upgrade = place.local_beton("sample:shapes:n=20")
    assert after_an_upgrade != made
    assert place.local_beton("sample:shapes:n=20") == after_an_upgrade


def test_a_package_that_is_not_installed_is_a_version_too() -> None:
    assert place._installed("no-such-package") == "no no-such-package"


def test_the_loader_takes_a_sample_set_or_a_url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MIM_RAY_CACHE", str(tmp_path / "cache"))
    crop = CenterCrop(size=(32, 32), share=1.0)
    direct = Loader("sample:shapes:n=20", batch=10, crop=crop)
    remote = Loader(f"file://{direct.beton.path}", batch=10, crop=crop, stage="always")
    assert remote.beton.path != direct.beton.path
    a, b = next(direct.batches()), next(remote.batches())
    assert (a.crops[0] == b.crops[0]).all()
    assert set(direct.beton.labels) == {"label", "texture"}


@pytest.mark.parametrize("backend", ["ffcv", "torch"])
def test_a_damaged_copy_is_called_a_copy_that_may_be_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, backend: Backend
) -> None:
    monkeypatch.setenv("MIM_RAY_CACHE", str(tmp_path / "cache"))
    source = tmp_path / "shapes.beton"
    source.write_bytes(place.local_beton("sample:shapes:n=20").read_bytes())

    def loaded() -> Loader:
        crop = CenterCrop(size=(32, 32), share=1.0)
        return Loader(source, batch=20, crop=crop, stage="always", backend=backend)

    copy = loaded().beton
    assert copy.path.parent == tmp_path / "cache" / "betons"
    damage(copy, sample=7)
    words = rf"sample 7 \(.*\) .*: it is a staged copy: remove {copy.path} and load again"
    with pytest.raises(Failure, match=words):
        next(loaded().batches())
    with pytest.raises(Failure, match=words):
        verify(copy.path)
    copy.path.unlink()
    next(loaded().batches())
    damage(Beton.open(source), sample=7)
    with pytest.raises(Failure, match=rf"run mim-ray data verify {source}$"):
        next(Loader(source, batch=20, backend=backend).batches())


def damage(beton: Beton, sample: int) -> None:
    with beton.path.open("r+b") as file:
        file.seek(int(beton.pointer[sample]))
        file.write(bytes(int(beton.size[sample])))
