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
import timm
import torch
from PIL import Image
from safetensors.torch import save_file

from mim_ray import cli, embed, models
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


def encoder(seed: int, folder: Path) -> Path:
    """As it lies among the artifacts of a run."""
    model = subject(MODEL).run.method.build((32, 32), seed)
    card = ModelCard(method="mae", overrides={"encoder": "micro"}, steps=1, dataset="x", metrics={}, mim_ray="0")
    save_encoder(model.online.encoder.state_dict(), card, folder)
    return folder


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

    encoder(1, Path("mine"))
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


def test_a_model_is_found_where_tracking_uri_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which changes no feature: parts found by one address go on by another."""
    asked = []

    def fetched(where: str, _: Path, uri: str | None) -> Path:
        asked.append((where, uri))
        return encoder(1, Path("mine"))

    monkeypatch.setattr(models, "fetched", fetched)
    with monkeypatch.context() as stopped:
        stopped.setattr(embed, "_joined", lambda *_: sys.exit(1))
        with pytest.raises(SystemExit):
            embed.embed("first", SET, Path("out.parquet"), words={**HERE, "tracking.uri": "http://there.invalid"})
    embed.embed("first", SET, Path("out.parquet"), words=HERE)
    assert asked == [("first", "http://there.invalid"), ("first", None)]
    with pytest.raises(Mistake, match=r"tracking\.uri: expected no password"):
        embed.embed("first", SET, Path("other.parquet"), words={"tracking.uri": "https://me:secret@here.invalid"})


def test_a_timm_name_takes_a_file(capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(0)
    name, pictures = "vit_tiny_patch16_224", "sample:shapes:n=3,size=224"
    theirs: Any = timm.create_model(name).eval()
    save_file(theirs.state_dict(), "timm.safetensors")
    words = [f"{path}={value}" for path, value in HERE.items()]
    assert cli.run(["embed", name, pictures, "out.parquet", *words, "weights=timm.safetensors"]) == 0
    crop, device = CenterCrop(size=(224, 224), share=1.0), torch.device("cpu")
    batch = next(few_pictures(pictures, None, crop, device=device, backend="torch").batches())
    with torch.no_grad():
        tokens = theirs.forward_features((batch.crops[0] / 255 - 0.5) / 0.5)
    torch.testing.assert_close(features("out.parquet")[batch.samples], tokens[:, 1:].mean(1), rtol=1e-3, atol=1e-3)
    capsys.readouterr()
    for model, file, said in (
        (
            MODEL,
            "timm.safetensors",
            "weights=timm.safetensors: only a timm name takes a file: random:micro is none",
        ),
        ("mine", "nowhere.pt", "weights=nowhere.pt: only a timm name takes a file: mine is none"),
        (name, "nowhere.pt", "weights: nowhere.pt does not exist: expected a .safetensors or .pth file"),
    ):
        assert cli.run(["embed", model, pictures, "other.parquet", *words, f"weights={file}"]) == 2
        told = capsys.readouterr().err
        assert told.startswith(f"mim-ray: {said}")
        assert told.count("\n") == 1
    assert {path.name for path in Path().iterdir()} == {"out.parquet", "timm.safetensors"}


@pytest.mark.parametrize(
    ("model", "pictures", "word", "said"),
    [
        (MODEL, "pictures", "workrs=0", "no field 'workrs': did you mean 'workers'"),
        (MODEL, SET, "workrs=0", "no field 'workrs': did you mean 'workers'"),
        (MODEL, "pictures", "eval.pool=sum", "eval.pool=sum: expected"),
        (MODEL, "pictures", "seeds=3", "no field 'seeds': did you mean 'seed'"),
        ("random:micor", "pictures", "seed=0", "encoder=micor: "),
        (MODEL, "nothing", "seed=0", "no image in nothing"),
        (MODEL, "text.beton", "seed=0", "text.beton"),
        (MODEL, "nowhere.beton", "seed=0", "nowhere.beton is not a file"),
        (MODEL, "sample:shpes", "seed=0", "no sample 'shpes': did you mean 'shapes'?"),
    ],
)
def test_nothing_is_left_of_a_mistake(
    model: str, pictures: str, word: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("pictures", "nothing"):
        Path(name).mkdir()
    Image.new("RGB", (40, 40)).save("pictures/0.png")
    Path("text.beton").write_text("no beton")
    words = [f"{path}={value}" for path, value in HERE.items()]
    before = sorted(Path().rglob("*"))
    assert cli.run(["embed", model, pictures, "out.parquet", *words, word]) in (1, 2)
    assert said in capsys.readouterr().err
    assert sorted(Path().rglob("*")) == before


def test_of_a_mistake_late_in_the_work_what_is_good_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    def mistaken(*_: object) -> dict[str, Any]:
        raise Mistake("late")

    Path("pictures").mkdir()
    Image.new("RGB", (40, 40)).save("pictures/0.png")
    monkeypatch.setattr(embed, "engine_for", lambda *_: (nullcontext(), mistaken))
    with pytest.raises(Mistake, match="late"):
        embed.embed(MODEL, "pictures", Path("out.parquet"), words=HERE)
    assert {path.suffix for path in Path(".out.parquet.parts").iterdir()} == {".beton", ".json"}


def test_what_cannot_be_is_refused(tmp_path: Path) -> None:
    (tmp_path / "there.parquet").touch()
    with pytest.raises(Mistake, match=r"there.parquet exists: name a new file"):
        embed.embed(MODEL, SET, tmp_path / "there.parquet")
    with pytest.raises(Mistake, match=r"there is no folder .*nowhere"):
        embed.embed(MODEL, SET, tmp_path / "nowhere" / "out.parquet")
