"""`mim-ray embed`: one feature of every picture, in order, whatever stops it and however many workers."""

import json
import shutil
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from mim_ray import cli, embed
from mim_ray.data.beton import Beton
from mim_ray.data.place import local_beton
from mim_ray.errors import Mistake
from mim_ray.evaluate.features import features_of, few_pictures
from mim_ray.model_card import ModelCard
from mim_ray.models import save_encoder
from mim_ray.subject import subject
from mim_ray.training.job import Job
from mim_ray.training.place import Place
from mim_ray.transforms.crop import CenterCrop

SET = "sample:shapes:n=50"
HERE: dict[str, object] = {"workers": 0, "data.backend": "torch", "precision": "fp32", "eval.share": 1.0}
MODEL = "random:micro"


@pytest.fixture(autouse=True)
def small_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(embed, "PICTURES", 12)


def features(path: str | Path) -> torch.Tensor:
    column = pq.read_table(path)["feature"].combine_chunks()
    return torch.from_numpy(np.asarray(column.flatten()).reshape(len(column), -1).copy())


def wanted() -> torch.Tensor:
    run = subject(MODEL).run
    torch.manual_seed(0)
    model = run.method.build((32, 32), 0).eval()
    crop, device = CenterCrop(size=(32, 32), share=1.0), torch.device("cpu")
    loader = few_pictures(SET, None, crop, device=device, backend="torch")
    return features_of(model.online.encoder, model.normalise, loader, run.pool).pooled


def test_every_picture_has_its_feature_name_and_labels(capsys: pytest.CaptureFixture[str]) -> None:
    words = [f"{path}={value}" for path, value in HERE.items()]
    assert cli.run(["embed", MODEL, SET, "out.parquet", *words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"path": "out.parquet", "samples": 50, "model": MODEL}
    table, beton = pq.read_table("out.parquet"), Beton.open(local_beton(SET))
    assert table["sample"].to_pylist() == list(range(50))
    assert beton.proof is not None
    assert table["name"].to_pylist() == list(beton.proof.names)
    for label, values in beton.labels.items():
        assert table[label].to_pylist() == values.tolist()
    torch.testing.assert_close(features("out.parquet"), wanted(), rtol=1e-4, atol=1e-5)
    assert [path.name for path in Path().iterdir()] == ["out.parquet"]


@pytest.mark.parametrize("world", [2, 3, 7])
def test_workers_share_the_parts(world: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def all_of_them(job: Job, task: Any) -> dict[str, Any]:
        for rank in range(world):
            task(job, Place(rank, world, torch.device("cpu")))
        return {"asked": None}

    monkeypatch.setattr(embed, "engine_for", lambda *_: (nullcontext(), all_of_them))
    embed.embed(MODEL, SET, Path("out.parquet"), words=HERE)
    torch.testing.assert_close(features("out.parquet"), wanted(), rtol=1e-4, atol=1e-5)


def test_what_was_stopped_goes_on_with_the_parts_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []
    table = embed._table

    def failing(beton: Any, batch: Any, found: torch.Tensor) -> Any:
        made.append(batch.step)
        if batch.step == 3 and made.count(3) == 1:
            raise KeyboardInterrupt
        return table(beton, batch, found)

    run = subject(MODEL).run
    model = run.method.build((32, 32), 1)
    card = ModelCard(method="mae", overrides={"encoder": "micro"}, steps=1, dataset="x", metrics={}, mim_ray="0")
    save_encoder(model.online.encoder.state_dict(), card, Path("mine"))
    monkeypatch.setattr(embed, "_table", failing)
    with pytest.raises(KeyboardInterrupt):
        embed.embed(MODEL, SET, Path("out.parquet"), words=HERE)
    assert not Path("out.parquet").exists()
    with pytest.raises(Mistake, match="has parts of another model or set"):
        embed.embed(MODEL, "sample:shapes:n=40", Path("out.parquet"), words=HERE)
    with pytest.raises(Mistake, match="has parts of another model or set"):
        embed.embed("mine", SET, Path("out.parquet"), words=HERE)
    embed.embed(MODEL, SET, Path("out.parquet"), words=HERE)
    assert made == [0, 1, 2, 3, 3, 4]
    torch.testing.assert_close(features("out.parquet"), wanted(), rtol=1e-4, atol=1e-5)


def test_a_stop_is_heard_at_every_part_and_others_may_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was begun by two workers is ended by one."""

    def stopped(job: Job, task: Any) -> dict[str, Any]:
        task(job, Place(0, 2, torch.device("cpu"), is_over=lambda: True))
        return {"asked": 15}

    with monkeypatch.context() as others:
        others.setattr(embed, "engine_for", lambda *_: (nullcontext(), stopped))
        with pytest.raises(SystemExit, match="143"):
            embed.embed(MODEL, SET, Path("out.parquet"), words={**HERE, "workers": 2})
    assert len(list(Path(".out.parquet.parts").rglob("part-*.parquet"))) == 1
    embed.embed(MODEL, SET, Path("out.parquet"), words=HERE)
    torch.testing.assert_close(features("out.parquet"), wanted(), rtol=1e-4, atol=1e-5)


def test_a_folder_of_pictures_is_embedded_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from PIL import Image

    Path("pictures").mkdir()
    for number in range(3):
        Image.new("RGB", (40, 40), (80 * number, 10, 10)).save(f"pictures/{number}.png")
    Path("others").mkdir()
    Image.new("RGB", (40, 40)).save("others/0.png")
    monkeypatch.setattr(embed, "_joined", lambda *_: sys.exit(1))
    with pytest.raises(SystemExit):
        embed.embed(MODEL, "others", Path("out.parquet"), words=HERE)
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(Mistake, match="has parts of another model or set"):
        embed.embed(MODEL, "pictures", Path("out.parquet"), words=HERE)
    shutil.rmtree(".out.parquet.parts")
    embed.embed(MODEL, "pictures", Path("out.parquet"), words=HERE)
    names = pq.read_table("out.parquet")["name"].to_pylist()
    assert sorted(Path(name).name for name in names) == ["0.png", "1.png", "2.png"]


def test_what_cannot_be_is_refused(tmp_path: Path) -> None:
    (tmp_path / "there.parquet").touch()
    with pytest.raises(Mistake, match=r"there.parquet exists: name a new file"):
        embed.embed(MODEL, SET, tmp_path / "there.parquet")
    with pytest.raises(Mistake, match=r"there is no folder .*nowhere"):
        embed.embed(MODEL, SET, tmp_path / "nowhere" / "out.parquet")
