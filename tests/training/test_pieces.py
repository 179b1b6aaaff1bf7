"""A worker's part of a batch is cut so that it fits into the memory that it shares with its neighbours."""

import pytest
import torch

from mim_ray import world
from mim_ray.cost import cost
from mim_ray.errors import Failure, Mistake
from mim_ray.methods import resolved
from mim_ray.training import pieces
from mim_ray.training.place import Place

PLACE = Place(device=torch.device("cpu"))


def room_for(images: int, monkeypatch: pytest.MonkeyPatch) -> None:
    needed = cost(RUN)
    free = (images + 0.5) * needed.activation_bytes + 4 * pieces.COPIES * needed.parameters
    monkeypatch.setattr(pieces, "available_bytes", lambda: int(free / pieces.ROOM))


RUN = resolved("mae", {"encoder": "micro", "batch": 64})


@pytest.mark.parametrize(("images", "expected"), [(64, 1), (63, 2), (20, 4), (1, 64)])
def test_a_batch_is_cut_to_what_fits(images: int, expected: int, monkeypatch: pytest.MonkeyPatch) -> None:
    room_for(images, monkeypatch)
    assert pieces.pieces_that_fit(RUN, PLACE) == expected


def test_what_the_user_says_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    room_for(64, monkeypatch)
    assert pieces.pieces_that_fit(resolved("mae", {"encoder": "micro", "batch": 64, "micro": 16}), PLACE) == 4


def test_workers_of_one_machine_share_its_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(world, "gathered_objects", lambda mine: [("afar", ""), mine, mine, ("afar", "")])
    assert pieces.sharers(PLACE) == [1, 2]
    alone = cost(RUN)
    free = 40 * alone.activation_bytes + 4 * pieces.COPIES * alone.parameters
    monkeypatch.setattr(pieces, "available_bytes", lambda: int(2 * free / pieces.ROOM) + 2)
    assert pieces.images_that_fit(RUN, PLACE) == 40


def test_memory_for_not_even_one_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    room_for(0, monkeypatch)
    with pytest.raises(Mistake, match=r"one picture takes .* besides .* for the weights, and .* is free"):
        pieces.pieces_that_fit(RUN, PLACE)


@pytest.mark.parametrize(
    ("method", "changes", "words"),
    [
        ("supervised", {"workers": "1:3"}, r"may be 3, and batch=64 makes an odd piece of 3.*, or fewer than 3 w"),
        ("mae", {"workers": "1:8", "batch": 4}, r"may be 5, and batch=4: leaves some of 5 workers without a pic"),
        ("cmae", {"workers": "2:9", "method.target": "twin", "micro": 16}, r"may be 2, .* a twin's candidates"),
        (
            "mae",
            {"workers": 4, "batch": 2},
            r"^batch=2: leaves some of 4 workers without a picture: expected 4 or",
        ),
    ],
)
def test_a_number_of_workers_that_cannot_share_a_batch_is_refused_before_the_run(
    method: str, changes: dict[str, object], words: str
) -> None:
    """Each that an elastic run may have; it would end in the middle."""
    run = resolved(method, {"encoder": "micro", "batch": 64, **changes})
    with pytest.raises(Mistake, match=words):
        pieces.check_sizes(run)


def test_any_number_of_workers_that_can_share_a_batch_may_be_asked_for() -> None:
    for method, workers in (("supervised", "1:2"), ("mae", "1:64"), ("mocov3", "2:8"), ("mae", "0")):
        pieces.check_sizes(resolved(method, {"encoder": "micro", "batch": 64, "workers": workers}))


def test_pieces_stay_those_of_the_checkpoint_as_long_as_they_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    activations = cost(RUN).activation_bytes
    for free, before, now in ((65, 1, 1), (65, 1, 2), (0, 4, 4), (0, 4, 1), (17, 4, 5)):
        monkeypatch.setattr(pieces, "available_bytes", lambda free=free: free * activations)
        assert pieces.pieces_as_before(RUN, PLACE, before, now) == before
    with pytest.raises(Failure, match=r"made in pieces of 64 pictures, which take .* and .* is free"):
        pieces.pieces_as_before(RUN, PLACE, before=1, now=4)


@pytest.mark.parametrize(
    ("method", "changes", "words"),
    [
        ("cmae", {"method.target": "twin"}, "a twin's candidates carry a gradient through the whole batch"),
        ("simmim_r50", {"encoder": "resnet-micro"}, "its batch norms would see pieces of it"),
        ("a2mim_code", {}, "method.measure.fourier=code compares the mean of the whole batch"),
        (
            "mae",
            {"method.shared.cutmix": "on", "batch": 36},
            "makes an odd piece of 4, and pictures are mixed in pairs: expected batch=40",
        ),
    ],
)
def test_what_would_change_with_the_pieces_is_refused(method: str, changes: dict[str, object], words: str) -> None:
    run = resolved(method, {"encoder": "micro", "batch": 64, **changes})
    with pytest.raises(Mistake, match=words):
        pieces.check_pieces(run, 4, 1)
    pieces.check_pieces(run, 1, 1)
