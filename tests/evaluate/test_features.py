"""Features, neighbours and alarms, each against a slow and obvious way."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.neighbors import KNeighborsClassifier

from mim_ray.data.importer import Import, import_set
from mim_ray.data.sources import open_source
from mim_ray.evaluate.features import features_of, few_pictures, likeness
from mim_ray.evaluate.knn import knn
from mim_ray.evaluate.online import Onlooker, alarms, spread_of
from mim_ray.methods import resolved
from mim_ray.transforms.crop import CenterCrop
from mim_ray.views import View

SIZE = (32, 32)


@pytest.fixture(scope="module")
def beton(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("set") / "shapes.beton"
    import_set(open_source("sample:shapes:n=50"), path, Import(workers=1, max_resolution=None))
    return path


def test_likeness_is_the_mean_cosine_of_different_patches() -> None:
    patches = torch.randn(3, 5, 8)
    for picture, found in zip(patches, likeness(patches), strict=True):
        pairs = [
            torch.cosine_similarity(picture[i], picture[j], dim=0) for i in range(5) for j in range(5) if i != j
        ]
        torch.testing.assert_close(found, torch.stack(pairs).mean())
    assert likeness(patches[:, :1]).tolist() == [1, 1, 1]


@pytest.mark.parametrize("pool", ["class", "mean"])
def test_features_are_those_of_whole_pictures_in_the_order_of_the_set(beton: Path, pool: str) -> None:
    model = resolved("mae", {"encoder": "micro"}).method.build(SIZE).eval()
    loader = few_pictures(beton, 1000, CenterCrop(size=SIZE), device=torch.device("cpu"), batch=16)
    found = features_of(model.online.encoder, model.normalise, loader, pool)  # type: ignore[arg-type]
    rows = {}
    for batch in loader.epoch():
        for crop, sample, label in zip(batch.crops[0], batch.samples.tolist(), batch.labels, strict=True):  # type: ignore[arg-type]
            with torch.no_grad():
                tokens = model.online.encoder(View(model.normalise(crop[None]), None))
            feature = tokens.pooled[0] if pool == "class" else tokens.patches[0].mean(0)
            rows[sample] = feature, int(label)
    assert sorted(rows) == list(range(50))
    torch.testing.assert_close(found.pooled, torch.stack([rows[n][0] for n in range(50)]), rtol=1e-5, atol=1e-5)
    assert found.labels is not None
    assert found.labels.tolist() == [rows[n][1] for n in range(50)]


def test_few_pictures_are_always_the_same_and_of_every_part_of_the_set(beton: Path) -> None:
    loaders = [few_pictures(beton, 20, CenterCrop(size=SIZE), device=torch.device("cpu"), batch=8) for _ in "ab"]
    first, second = ([n for batch in loader.epoch() for n in batch.samples.tolist()] for loader in loaders)
    assert first == second
    assert len(set(first)) == 20
    assert max(first) > 25


def test_neighbours_vote_as_scikit_learns_do() -> None:
    random = np.random.default_rng(0)
    bank, queries = (F.normalize(torch.from_numpy(random.normal(size=(n, 6))), dim=1) for n in (200, 70))
    labels, wanted = torch.from_numpy(random.integers(0, 7, 200)), torch.from_numpy(random.integers(0, 7, 70))
    known = KNeighborsClassifier(15, metric="cosine", weights=lambda apart: np.exp((1 - apart) / 0.1))
    share = known.fit(bank, labels).predict_proba(queries)
    best = np.argsort(-share, axis=1)
    votes = knn(queries, wanted, bank, labels, neighbours=(15,), temperatures=(0.1,))
    found = votes.scores[15, 0.1]
    assert (votes.ranked.numpy() == best[:, :5]).all()
    assert found.top1 == pytest.approx((best[:, 0] == wanted.numpy()).mean())
    assert found.top5 == pytest.approx((best[:, :5] == wanted.numpy()[:, None]).any(1).mean())


def test_who_is_left_out_has_no_vote() -> None:
    """Every picture is the only one of its class: its own vote would make it right."""
    features, labels = F.normalize(torch.randn(9, 4), dim=1), torch.arange(9)
    with_all = knn(features, labels, features, labels, neighbours=(3,))
    without = knn(features, labels, features, labels, neighbours=(3,), leave_one_out=True)
    assert (with_all.scores[3, 0.07].top1, without.scores[3, 0.07].top1) == (1, 0)
    assert torch.equal(with_all.ranked[:, 0], labels)
    assert not (without.ranked[:, 0] == labels).any()


def test_features_that_collapse_are_told(beton: Path) -> None:
    run = resolved("mae", {"encoder": "micro", "data.train": str(beton), "batch": 16})
    model = run.method.build(SIZE)
    onlooker = Onlooker(run, torch.device("cpu"))
    well = onlooker.look(model)
    assert set(well) == {
        "collapse/feature_spread", "collapse/patch_similarity", "collapse/alarms",
        "eval/knn_top1", "eval/knn_top5",
    }  # fmt: skip
    assert well["collapse/alarms"] == 0
    assert alarms(well) == []
    assert model.training
    norm: Any = model.online.encoder.norm
    norm.bias.data.fill_(0.5)
    norm.weight.data.zero_()
    said = alarms(badly := onlooker.look(model))
    assert badly["collapse/alarms"] == len(said)
    assert [words.split(" to")[0].split(" of")[0] for words in said] == ["all pictures look alike", "all patches"]


def test_spread_is_one_where_features_point_everywhere() -> None:
    assert spread_of(F.normalize(torch.randn(5000, 64), dim=1)) == pytest.approx(1, abs=0.02)
    assert spread_of(torch.ones(10, 64) / 8) == 0


def test_votes_at_a_small_temperature_stay_finite() -> None:
    """The nearest alone decides then."""
    torch.manual_seed(0)
    bank = F.normalize(torch.randn(200, 16), dim=1)
    labels = torch.randint(0, 5, (200,))
    sharp, nearest = ((count, 1e-3) for count in (20, 1))
    votes = knn(bank, labels, bank, labels, neighbours=(20, 1), temperatures=(1e-3,), leave_one_out=True)
    scores = votes.scores
    assert scores[sharp].top1 == pytest.approx(scores[nearest].top1, abs=0.03)
