"""A worker's part of a batch is cut so that it fits into the memory that it shares with its neighbours."""

import pytest
import torch

from mim_ray import world
from mim_ray.cost import cost
from mim_ray.errors import Mistake
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
