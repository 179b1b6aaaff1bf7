"""What classifiers are said to know, class by class."""

from pathlib import Path

import pytest
import torch
from PIL import Image

from mim_ray.evaluate.features import few_pictures
from mim_ray.evaluate.verdict import Verdict, judged
from mim_ray.methods import resolved
from mim_ray.transforms.crop import CenterCrop

WANTED = torch.tensor([0, 0, 1, 1, 1, 2])
FIRST = torch.tensor([[0, 1, 2], [1, 0, 2], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]])


def test_shares_and_tables_are_counted() -> None:
    worse = FIRST.roll(1, 1)
    verdict = Verdict(WANTED, {"0.1": worse, "1": FIRST}, classes=4)
    assert verdict.best == "1"
    found = verdict.metrics()
    assert found["eval/top1"] == found["eval/top1_1"] == pytest.approx(4 / 6)
    assert (found["eval/rate"], found["eval/top5"]) == (1, 1)
    assert found["eval/top1_0.1"] < 4 / 6
    rows = verdict.by_class(["cat", "dog"])
    told = [(row["class"], row["pictures"], row["taken_for"]) for row in rows]
    assert told == [("cat", 2, "dog"), ("dog", 3, "2"), ("2", 1, "")]
    assert [row["top1"] for row in rows] == pytest.approx([1 / 2, 2 / 3, 1])
    wanted = [[1 / 2, 1 / 2, 0, 0], [0, 2 / 3, 1 / 3, 0], [0, 0, 1, 0], [0, 0, 0, 0]]
    assert torch.equal(verdict.confusions(), torch.tensor(wanted, dtype=torch.float64))


def test_the_picture_is_dark_where_a_class_is_taken_for_another(tmp_path: Path) -> None:
    Verdict(WANTED, {"": FIRST}, classes=4).draw(tmp_path / "confusions.png")
    with Image.open(tmp_path / "confusions.png") as picture:
        assert picture.size == (512, 512)
        shades = [picture.getpixel((128 * column + 64, 64)) for column in range(4)]
    assert shades == [75, 75, 255, 255]


def test_every_picture_of_the_set_is_judged_once_by_each_classifier() -> None:
    run = resolved("linear", {"encoder": "micro", "method.measure.classes": 10})
    model = run.method.build((32, 32)).train()
    crop, device = CenterCrop(size=(32, 32)), torch.device("cpu")
    loader = few_pictures("sample:shapes:n=50", None, crop, device=device, batch=16)
    verdict = judged(model, loader)
    assert model.training
    assert list(verdict.ranked) == ["0.1", "0.3", "1", "3", "10"]
    assert torch.equal(verdict.wanted, torch.from_numpy(next(iter(loader.beton.labels.values())).copy()))
    model.eval()
    with torch.no_grad():
        for batch in loader.epoch():
            for name, logits in model.logits(batch.crops[0]).items():
                assert torch.equal(verdict.ranked[name][batch.samples, 0], logits.argmax(1))
