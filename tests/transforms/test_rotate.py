"""Rotation against a slow double loop."""

import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from mim_ray.draws import Purpose
from mim_ray.methods import resolved
from mim_ray.transforms.keyed import keys, uniforms
from mim_ray.transforms.rotate import Rotate


def slowly(picture: NDArray[np.float64], angle: float) -> NDArray[np.float64]:
    """(H, W), each pixel read where it came from, between four others; beyond an edge lies its mirror image."""
    height, width = picture.shape

    def at(row: int, column: int) -> float:
        row = min(row, 2 * height - 1 - row) if row >= 0 else -1 - row
        column = min(column, 2 * width - 1 - column) if column >= 0 else -1 - column
        return float(picture[row, column])

    turned = np.empty_like(picture)
    for row in range(height):
        for column in range(width):
            y, x = row + 0.5 - height / 2, column + 0.5 - width / 2
            from_row = math.sin(angle) * x + math.cos(angle) * y + height / 2 - 0.5
            from_column = math.cos(angle) * x - math.sin(angle) * y + width / 2 - 0.5
            top, left = math.floor(from_row), math.floor(from_column)
            down, right = from_row - top, from_column - left
            turned[row, column] = (
                (1 - down) * (1 - right) * at(top, left)
                + (1 - down) * right * at(top, left + 1)
                + down * (1 - right) * at(top + 1, left)
                + down * right * at(top + 1, left + 1)
            )
    return turned


@pytest.fixture
def pictures() -> Tensor:
    return torch.randint(256, (5, 3, 12, 18), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


def test_each_picture_is_turned_by_an_angle_of_its_own(pictures: Tensor) -> None:
    key = keys(Purpose.ROTATE, 3, 0, torch.arange(5))
    found = Rotate(degrees=40)(pictures, key)
    angles = [math.radians(40) * (2 * u - 1) for u in uniforms(key, 1)[:, 0].tolist()]
    assert len({round(angle, 6) for angle in angles}) == 5
    assert max(map(abs, angles)) < math.radians(40)
    for picture, turned, angle in zip(pictures, found, angles, strict=True):
        for channel, result in zip(picture, turned, strict=True):
            expected = slowly(channel.double().numpy(), angle)
            torch.testing.assert_close(result.double(), torch.from_numpy(expected), rtol=0, atol=2e-3)


def test_no_angle_is_no_change(pictures: Tensor) -> None:
    key = keys(Purpose.ROTATE, 3, 0, torch.arange(5))
    torch.testing.assert_close(Rotate(degrees=0)(pictures, key), pictures.float(), rtol=0, atol=1e-3)


def test_what_is_turned_is_the_picture_itself(pictures: Tensor) -> None:
    """The target turns with what is shown, and both views alike."""
    changes = {"encoder": "micro", "method.shared.rotate": "on", "data.crop.size": (12, 20)}
    model = resolved("rmae", {**changes, "method.encoder.patch": 4}).method.build((12, 20))
    wide = torch.cat([pictures, pictures[..., :2]], dim=3)
    a, b, _ = model.prepared((wide,), torch.arange(5))
    assert torch.equal(a.pixels, b.pixels)
    assert not torch.equal(a.pixels, model.normalise(wide))
