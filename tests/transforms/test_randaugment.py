"""Every operation against Pillow and timm, picture by picture; and how they are drawn."""

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data import auto_augment
from torch import Tensor

from mim_ray.draws import Purpose
from mim_ray.transforms.erase import Erase
from mim_ray.transforms.keyed import keys
from mim_ray.transforms.pixels import Normalise
from mim_ray.transforms.randaugment import MOVES, Op, RandAugment, applied
from mim_ray.transforms.view import Shared

LEVELS = (0.0, 0.3, 0.5, 0.9, 1.0)
THEIRS = {
    Op.AUTO_CONTRAST: "AutoContrast", Op.EQUALIZE: "Equalize", Op.INVERT: "Invert",
    Op.POSTERIZE: "PosterizeIncreasing",
    Op.SOLARIZE: "SolarizeIncreasing", Op.SOLARIZE_ADD: "SolarizeAdd", Op.COLOUR: "ColorIncreasing",
    Op.CONTRAST: "ContrastIncreasing", Op.BRIGHTNESS: "BrightnessIncreasing", Op.SHARPNESS: "SharpnessIncreasing",
    Op.ROTATE: "Rotate", Op.SHEAR_X: "ShearX", Op.SHEAR_Y: "ShearY",
    Op.TRANSLATE_X: "TranslateXRel", Op.TRANSLATE_Y: "TranslateYRel",
}  # fmt: skip
FILL = (124, 116, 104)


def pictures() -> Tensor:
    """Smooth ones, a noisy one, one of few bytes, one of one colour."""
    draw = torch.Generator().manual_seed(0)
    coarse = torch.rand(3, 3, 5, 4, generator=draw)
    smooth = (torch.nn.functional.interpolate(coarse, (40, 32), mode="bicubic").clamp(0, 1) * 200 + 20).byte()
    noisy = torch.randint(0, 256, (1, 3, 40, 32), dtype=torch.uint8, generator=draw)
    few = torch.randint(0, 3, (1, 3, 40, 32), dtype=torch.uint8, generator=draw) * 40 + 60
    return torch.cat([smooth, noisy, few, torch.full((1, 3, 40, 32), 77, dtype=torch.uint8)])


def theirs(picture: Tensor, op: Op, level: float, sign: int, monkeypatch: pytest.MonkeyPatch) -> Tensor:
    monkeypatch.setattr(auto_augment, "_randomly_negate", lambda value: sign * value)
    settings: dict[str, Any] = {"fillcolor": FILL, "resample": Image.Resampling.BILINEAR}
    name = THEIRS[op]
    argument_of: Any = auto_augment.LEVEL_TO_ARG[name]
    arguments = argument_of(10 * level, {}) if argument_of else ()
    image = Image.fromarray(picture.permute(1, 2, 0).numpy())
    change: Any = auto_augment.NAME_TO_OP[name]
    changed = change(image, *arguments, **settings)
    return torch.from_numpy(np.array(changed)).permute(2, 0, 1)


@pytest.mark.parametrize("op", [op for op in Op if op < MOVES])
@pytest.mark.parametrize("sign", [-1, 1])
def test_arithmetic_is_pillows_to_a_level(op: Op, sign: int, monkeypatch: pytest.MonkeyPatch) -> None:
    x = pictures()
    for level in LEVELS[: -1 if op == Op.POSTERIZE else None]:  # Pillow refuses to keep no bit
        one = torch.ones(len(x))
        ours = applied(x, torch.full((len(x),), int(op)), level * one, sign * one)
        apart = torch.stack([theirs(picture, op, level, sign, monkeypatch) for picture in x]).int() - ours.int()
        assert apart.abs().max() <= 1, (op.name, level)
        assert (apart != 0).float().mean() < 0.05, (op.name, level)


@pytest.mark.parametrize("op", [op for op in Op if op >= MOVES])
@pytest.mark.parametrize("sign", [-1, 1])
def test_a_picture_goes_where_pillow_moves_it(op: Op, sign: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """But for the fill's edge, which blends here; a white frame shows where each comes from."""
    x = pictures()[:3]
    for level in LEVELS:
        one = torch.ones(len(x))
        ours = applied(x, torch.full((len(x),), int(op)), level * one, sign * one)
        for picture, found in zip(x, ours, strict=True):
            wanted = theirs(picture, op, level, sign, monkeypatch)
            apart = (found.int() - wanted.int()).abs().amax(0)
            assert (apart > 2).float().mean() < 0.08, (op.name, level)
            assert apart.float().median() <= 1


def test_each_picture_has_its_own_operation_and_its_neighbours_do_not_matter() -> None:
    x = pictures()
    ops, level, sign = torch.tensor([0, 6, -1, 10, 3, 14]), torch.full((6,), 0.9), torch.ones(6)
    together = applied(x, ops, level, sign)
    assert torch.equal(together[2], x[2])
    for row in range(6):
        alone = applied(x[row : row + 1], ops[row : row + 1], level[:1], sign[:1])
        assert torch.equal(together[row : row + 1], alone)


def test_draws_are_functions_of_the_key() -> None:
    x = pictures().repeat(4, 1, 1, 1)
    key = keys(Purpose.AUGMENT, 0, 0, torch.arange(len(x)))
    augmented = RandAugment()(x, key)
    assert augmented.dtype == torch.uint8
    assert torch.equal(augmented[5:9], RandAugment()(x[5:9], key[5:9]))
    assert not torch.equal(augmented, RandAugment()(x, keys(Purpose.AUGMENT, 1, 0, torch.arange(len(x)))))
    assert torch.equal(RandAugment(chance=0)(x, key), x)


def test_operations_are_drawn_alike_and_half_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[tuple[Tensor, Tensor, Tensor]] = []

    def noted(x: Tensor, op: Tensor, level: Tensor, sign: Tensor) -> Tensor:
        drawn.append((op, level, sign))
        return x.clone()

    monkeypatch.setattr("mim_ray.transforms.randaugment.applied", noted)
    n = 20_000
    RandAugment()(torch.zeros(n, 3, 1, 1, dtype=torch.uint8), keys(Purpose.AUGMENT, 0, 0, torch.arange(n)))
    assert len(drawn) == 2
    for op, level, sign in drawn:
        assert (op == -1).float().mean().item() == pytest.approx(0.5, abs=0.02)
        counts = torch.bincount(op[op >= 0], minlength=len(Op)).float()
        assert (counts / counts.sum() - 1 / len(Op)).abs().max() < 0.01
        inside = level[level < 1]
        assert inside.median().item() < 0.9 <= level.quantile(0.6).item()
        assert level.min() > 0.6  # six deviations
        assert sign.mean().abs() < 0.03
    assert not torch.equal(drawn[0][0], drawn[1][0])


def test_half_precision_of_a_step_does_not_reach_it() -> None:
    x, position = pictures().repeat(4, 1, 1, 1), torch.arange(24)
    shared = Shared(augment=RandAugment(), erase=Erase())
    plain = shared.augmented(x, position, Normalise(), 0, 0)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(shared.augmented(x, position, Normalise(), 0, 0), plain)


def test_a_compiler_sees_one_operation() -> None:
    torch.compiler.reset()
    x, key = torch.randint(0, 256, (4, 3, 16, 16), dtype=torch.uint8), torch.arange(4)
    augment = RandAugment()
    compiled = torch.compile(lambda x, key: augment(x, key).float() / 255, fullgraph=True, backend="eager")
    assert torch.equal(compiled(x, key), augment(x, key).float() / 255)
