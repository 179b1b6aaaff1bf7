"""The same global batch over any number of workers and in any number of pieces is the same run."""

from pathlib import Path

import pytest

from mim_ray.errors import Mistake
from mim_ray.methods import resolved
from mim_ray.training.pieces import check_pieces
from tests.training.runs import job_at, worked

FAMILIES: dict[str, dict[str, object]] = {
    "rmae": {},
    "cmae": {},
    "a2mim": {"steps": 3},
    "simmim_r50": {"encoder": "resnet-micro", "steps": 3},
    "mocov3": {"steps": 3},
    "byol": {"encoder": "resnet-micro", "steps": 3},
    "supervised": {"batch": 12, "steps": 3},
}
TWIN = {"method.target": "twin"}


@pytest.mark.parametrize("method", FAMILIES)
def test_one_two_and_three_workers_draw_one_loss_curve(tmp_path: Path, method: str) -> None:
    changes: dict[str, object] = {"optim.blr": 1e-3, "steps": 4, **FAMILIES[method]}
    curves = []
    for world in (1, 2, 3):
        ended = worked(job_at(tmp_path / str(world), method, changes), world=world)
        assert ended.code == 0, ended.said
        curves.append(list(ended.losses.values()))
    assert curves[1] == pytest.approx(curves[0], rel=2e-4)
    assert curves[2] == pytest.approx(curves[0], rel=2e-4)


@pytest.mark.parametrize("method", ["rmae", "cmae"])
def test_a_batch_need_not_be_a_multiple_of_the_workers(tmp_path: Path, method: str) -> None:
    changes: dict[str, object] = {"batch": 11, "steps": 3, "optim.blr": 1e-3}
    alone = worked(job_at(tmp_path / "1", method, changes))
    three = worked(job_at(tmp_path / "3", method, changes), world=3)
    assert list(three.losses.values()) == pytest.approx(list(alone.losses.values()), rel=2e-4)


@pytest.mark.parametrize(("method", "changes"), [("mae", {}), ("cmae", {}), ("cmae", {"method.symmetric": True})])
def test_pieces_of_a_batch_are_the_batch(tmp_path: Path, method: str, changes: dict[str, object]) -> None:
    changes = {"steps": 3, "optim.blr": 1e-3, **changes}
    whole = worked(job_at(tmp_path / "whole", method, changes))
    for world in (1, 2):
        pieces = worked(job_at(tmp_path / f"pieces{world}", method, {**changes, "micro": 4}), world=world)
        assert pieces.code == 0, pieces.said
        assert list(pieces.losses.values()) == pytest.approx(list(whole.losses.values()), rel=2e-4)


def test_pieces_that_would_change_the_result_are_refused_with_the_way_out() -> None:
    with pytest.raises(Mistake, match=r"a twin's candidates .*: expected workers=4 or batch=6"):
        check_pieces(resolved("cmae", {"encoder": "micro", "batch": 12, **TWIN}), pieces=2, workers=2)
    with pytest.raises(Mistake, match=r"batch norms would see pieces of it: .* or micro=3 to let them"):
        check_pieces(resolved("byol", {"encoder": "resnet-micro", "batch": 12}), pieces=2, workers=2)
    check_pieces(resolved("byol", {"encoder": "resnet-micro", "batch": 12, "micro": 3}), pieces=2, workers=2)
    check_pieces(resolved("rmae", {"encoder": "micro", "batch": 12}), pieces=2, workers=2)
