"""The same global batch over any number of workers and in any number of pieces is the same run."""

from pathlib import Path

import pytest

from mim_ray.errors import Mistake
from mim_ray.methods import resolved
from mim_ray.training.pieces import check_pieces
from tests.training.runs import job_at, worked

STEEP: dict[str, object] = {
    "optim.algorithm": "sgd",
    "optim.clip": "none",
    "optim.per": 11,
    "schedule.warmup_epochs": 0,
    "batch": 11,
    "steps": 3,
}
"""Steps of gradients as they are: AdamW's would be as long with thrice the gradient, and nearly so with noise."""

FAMILIES: dict[str, dict[str, object]] = {
    "rmae": {"optim.blr": 0.1},
    "cmae": {"optim.blr": 0.5},
    "a2mim": {"optim.blr": 0.1},
    "simmim_r50": {"encoder": "resnet-micro", "optim.blr": 0.5},
    "mocov3": {"optim.blr": 0.5},
    "byol": {"encoder": "resnet-micro", "optim.blr": 0.03},
    "supervised": {"batch": 12, "optim.blr": 0.1},
}
TOLERANCE = 2e-5
MOVED = 500 * TOLERANCE
"""How far a curve must be from that of weights that stay, or wrong gradients might draw it as well."""

TWIN = {"method.target": "twin"}


def curve(folder: Path, method: str, changes: dict[str, object], world: int = 1) -> list[float]:
    ended = worked(job_at(folder, method, {**STEEP, **changes}), world=world)
    assert ended.code == 0, ended.said
    return list(ended.losses.values())


def curve_that_moves(folder: Path, method: str, changes: dict[str, object]) -> list[float]:
    """Of one worker and whole batches."""
    found = curve(folder / "moves", method, changes)
    stays = curve(folder / "stays", method, {**changes, "optim.blr": 1e-12})
    assert found[0] == pytest.approx(stays[0], rel=TOLERANCE)
    assert max(abs(one / other - 1) for one, other in zip(found, stays, strict=True)) > MOVED
    return found


@pytest.mark.parametrize("method", FAMILIES)
def test_one_two_and_three_workers_draw_one_loss_curve(tmp_path: Path, method: str) -> None:
    """The batch is a multiple of neither, but for CutMix, which pairs the pictures of one worker."""
    one = curve_that_moves(tmp_path, method, FAMILIES[method])
    for world in (2, 3):
        assert curve(tmp_path / str(world), method, FAMILIES[method], world) == pytest.approx(one, rel=TOLERANCE)


@pytest.mark.parametrize(
    ("method", "changes"),
    [
        ("mae", {"optim.blr": 0.1}),
        ("cmae", {"optim.blr": 0.5}),
        ("cmae", {"optim.blr": 0.5, "method.symmetric": True}),
    ],
)
def test_pieces_of_a_batch_are_the_batch(tmp_path: Path, method: str, changes: dict[str, object]) -> None:
    """Of other sizes each, and other ones on the second worker."""
    whole = curve_that_moves(tmp_path, method, changes)
    for world in (1, 2):
        pieces = curve(tmp_path / f"pieces{world}", method, {**changes, "micro": 4}, world)
        assert pieces == pytest.approx(whole, rel=TOLERANCE)


def test_pieces_that_would_change_the_result_are_refused_with_the_way_out() -> None:
    with pytest.raises(Mistake, match=r"a twin's candidates .*: expected workers=4 or batch=6"):
        check_pieces(resolved("cmae", {"encoder": "micro", "batch": 12, **TWIN}), pieces=2, workers=2)
    with pytest.raises(Mistake, match=r"batch norms would see pieces of it: .* or micro=3 to let them"):
        check_pieces(resolved("byol", {"encoder": "resnet-micro", "batch": 12}), pieces=2, workers=2)
    check_pieces(resolved("byol", {"encoder": "resnet-micro", "batch": 12, "micro": 3}), pieces=2, workers=2)
    check_pieces(resolved("rmae", {"encoder": "micro", "batch": 12}), pieces=2, workers=2)
