"""What neighbours say of each picture, where they are all that is asked for."""

import json
from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from mim_ray.data.importer import Import, import_set
from mim_ray.data.sources import open_source
from mim_ray.evaluate.knn import knn
from mim_ray.evaluate.online import Onlooker
from mim_ray.evaluate.verdict import Verdict
from mim_ray.methods import resolved
from tests.forked import SERVER

PICTURES = 41


@pytest.fixture(scope="module")
def beton(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("set") / "shapes.beton"
    import_set(open_source(f"sample:shapes:n={PICTURES}"), path, Import(workers=1, max_resolution=None))
    return path


def onlooker_of(beton: Path, **words: object) -> Onlooker:
    run = resolved("knn", {"encoder": "micro", "data.train": str(beton), "batch": 16, **words})
    return Onlooker(run, torch.device("cpu"))


def looked(onlooker: Onlooker) -> dict[str, float]:
    torch.manual_seed(0)
    return onlooker.look(onlooker.run.method.build((32, 32)))


@pytest.mark.parametrize("val", [True, False])
def test_it_is_of_the_first_number_and_temperature(beton: Path, val: bool) -> None:
    words = {"eval.neighbours": "1,20", "eval.temperature": "0.1,1", "data.val": str(beton) if val else "none"}
    onlooker = onlooker_of(beton, **words)
    found = looked(onlooker)
    verdict = onlooker.verdict
    assert verdict is not None
    assert "eval/top1" not in found
    assert verdict.share("knn", 1) == found["eval/knn_top1"] == found["eval/knn_top1_k1_t0.1"]
    assert verdict.share("knn", 5) == found["eval/knn_top5"]
    assert (found["eval/knn_top1"] == 1) == val  # or each picture has itself for a neighbour
    assert sum(row["pictures"] for row in verdict.by_class(())) == PICTURES


def test_a_run_that_trains_has_none(beton: Path) -> None:
    onlooker = onlooker_of(beton, steps=1)
    looked(onlooker)
    assert onlooker.verdict is None


def test_classes_may_be_few_or_absent() -> None:
    """Class 1 is in neither set; class 3 is asked for, and nobody votes for it."""
    directions = torch.eye(4)
    bank, labels = directions[[0, 0, 2, 2]], torch.tensor([0, 0, 2, 2])
    queries, wanted = directions[[0, 2, 2]], torch.tensor([0, 2, 3])
    votes = knn(queries, wanted, bank, labels, neighbours=(2,))
    assert votes.ranked.shape == (3, 4)
    verdict = Verdict(wanted, {"knn": votes.ranked}, classes=4)
    rows = verdict.by_class(["cat"])
    assert [(row["class"], row["top1"], row["taken_for"]) for row in rows] == [
        ("cat", 1, ""),
        ("2", 1, ""),
        ("3", 0, "2"),
    ]
    wanted_table: Tensor = torch.zeros(4, 4, dtype=torch.float64)
    wanted_table[[0, 2, 3], [0, 2, 2]] = 1
    assert torch.equal(verdict.confusions(), wanted_table)


def worker(beton: Path, folder: Path, rank: int) -> None:
    torch.set_num_threads(1)
    store = f"file://{folder / 'store'}"
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=2, timeout=timedelta(seconds=60))
    told(beton, folder / f"{rank}.json")
    dist.destroy_process_group()


def told(beton: Path, path: Path) -> None:
    onlooker = onlooker_of(beton, **{"eval.neighbours": "3,20", "precision": "fp32"})
    found = looked(onlooker)
    assert onlooker.verdict is not None
    ranked = onlooker.verdict.ranked["knn"].tolist()
    path.write_text(json.dumps([found["eval/knn_top1"], onlooker.verdict.by_class(()), ranked]))


def test_two_workers_say_what_one_says(beton: Path, tmp_path: Path) -> None:
    told(beton, tmp_path / "alone.json")
    processes = [SERVER.Process(target=worker, args=(beton, tmp_path, rank)) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    alone, *both = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("alone", 0, 1))
    assert alone == both[0] == both[1]


def test_guesses_are_in_the_order_of_the_queries() -> None:
    """More of them than are asked at once."""
    torch.manual_seed(0)
    bank = F.normalize(torch.randn(3000, 8), dim=1)
    labels = torch.randint(0, 9, (3000,))
    votes = knn(bank, labels, bank, labels, neighbours=(1, 5))
    assert torch.equal(votes.ranked[:, 0], labels)
    assert votes.ranked.shape == (3000, 5)
