"""RandAugment on the device: timm's operations in their increasing form, drawn for every picture from its key.

Arithmetic is Pillow's to one level of 255; but affine maps are bilinear, and the fill blends in at their edges.
"""

import math
from enum import IntEnum, auto

import torch
import torch.nn.functional as F
from pydantic import Field, PositiveInt
from torch import Tensor

from mim_ray.config import Spec
from mim_ray.transforms.keyed import mixed, uniforms
from mim_ray.transforms.pixels import IMAGENET_MEAN

MOST = 10.0
"""The largest magnitude."""


class Op(IntEnum):
    AUTO_CONTRAST = 0
    EQUALIZE = auto()
    INVERT = auto()
    POSTERIZE = auto()
    SOLARIZE = auto()
    SOLARIZE_ADD = auto()
    COLOUR = auto()
    CONTRAST = auto()
    BRIGHTNESS = auto()
    SHARPNESS = auto()
    ROTATE = auto()
    SHEAR_X = auto()
    SHEAR_Y = auto()
    TRANSLATE_X = auto()
    TRANSLATE_Y = auto()


TABLES, BLENDS, MOVES = Op.AUTO_CONTRAST, Op.COLOUR, Op.ROTATE
"""Where each of the three kinds begins: a table for bytes, a blend with another picture, an affine map."""


class RandAugment(Spec):
    """`m9-mstd0.5-inc1` is magnitude 9, noise 0.5, twice."""

    magnitude: float = Field(9.0, ge=0, le=MOST)
    noise: float = Field(0.5, ge=0, description="deviation of each picture's magnitude")
    times: PositiveInt = 2
    chance: float = Field(0.5, ge=0, le=1, description="probability of each")

    def __call__(self, x: Tensor, key: Tensor) -> Tensor:
        """(B, 3, H, W) bytes → bytes."""
        found: Tensor = augmented(x, key, self.magnitude, self.noise, self.times, self.chance)
        return found


@torch.library.custom_op("mim_ray::rand_augment", mutates_args=())
def augmented(x: Tensor, key: Tensor, magnitude: float, noise: float, times: int, chance: float) -> Tensor:
    """One operation to a compiler, for which pictures go which way is known at run time alone."""
    for time in range(times):
        u = uniforms(mixed(key + time), 5)
        op = (u[:, 0] * len(Op)).long()
        bell = (-2 * torch.log1p(-u[:, 2])).sqrt() * (2 * math.pi * u[:, 3]).cos()
        level = (magnitude + noise * bell).clamp(0, MOST) / MOST
        sign = torch.where(u[:, 4] < 0.5, -1.0, 1.0)
        x = applied(x, op.where(u[:, 1] < chance, -1), level, sign)
    return x


@augmented.register_fake
def _(x: Tensor, *_: object) -> Tensor:
    return torch.empty_like(x)


def applied(x: Tensor, op: Tensor, level: Tensor, sign: Tensor) -> Tensor:
    """To each picture its own operation, at its own level in 0 … 1; −1: none."""
    x = x.clone()
    for kind, first, last in ((tabled, TABLES, BLENDS), (blended, BLENDS, MOVES), (moved, MOVES, len(Op))):
        rows = ((op >= first) & (op < last)).nonzero()[:, 0]
        if len(rows):
            x[rows] = kind(x[rows], op[rows], level[rows], sign[rows])
    return x


def tabled(x: Tensor, op: Tensor, level: Tensor, _: Tensor) -> Tensor:
    """Operations that make of a byte another, whatever stands beside it."""
    pixels = x.flatten(2).long()
    counts = torch.zeros(*pixels.shape[:2], 256, dtype=torch.long, device=x.device)
    counts.scatter_add_(2, pixels, torch.ones_like(pixels))
    byte, level = torch.arange(256, device=x.device), level[:, None]
    kept = 4 - (level * 4).long()
    threshold = 256 - (level * 256).long().clamp(max=256)
    brighter = byte + (level * 110).long().clamp(max=128)
    tables = {
        Op.AUTO_CONTRAST: stretched(counts),
        Op.EQUALIZE: equalised(counts),
        Op.INVERT: (255 - byte).expand_as(counts),
        Op.POSTERIZE: same_for_all(byte & ~((1 << (8 - kept)) - 1), counts),
        Op.SOLARIZE: same_for_all(torch.where(byte < threshold, byte, 255 - byte), counts),
        Op.SOLARIZE_ADD: same_for_all(torch.where(byte < 128, brighter.clamp(max=255), byte), counts),
    }
    chosen = torch.stack(list(tables.values()))[op, torch.arange(len(op), device=x.device)]
    return chosen.gather(2, pixels).to(torch.uint8).view_as(x)


def same_for_all(table: Tensor, counts: Tensor) -> Tensor:
    """(B, 256) → for each channel."""
    return table[:, None].expand_as(counts)


def stretched(counts: Tensor) -> Tensor:
    """The darkest byte of a channel becomes 0, the brightest 255."""
    byte = torch.arange(256, device=counts.device)
    there = counts > 0
    low = torch.where(there, byte, 256).amin(2, keepdim=True)
    high = torch.where(there, byte, -1).amax(2, keepdim=True)
    scale = 255.0 / (high - low).clamp(min=1).double()
    return torch.where(high > low, (byte * scale - low * scale).long().clamp(0, 255), byte)


def equalised(counts: Tensor) -> Tensor:
    """As many pixels at each byte, as far as that goes; Pillow's integers."""
    byte = torch.arange(256, device=counts.device)
    last = torch.where(counts > 0, byte, -1).amax(2, keepdim=True)
    step = (counts.sum(2, keepdim=True) - counts.gather(2, last)) // 255
    before = counts.cumsum(2) - counts
    table = (step // 2 + before) // step.clamp(min=1)
    several = ((counts > 0).sum(2, keepdim=True) > 1) & (step > 0)
    return torch.where(several, table.clamp(max=255), byte)


def blended(x: Tensor, op: Tensor, level: Tensor, sign: Tensor) -> Tensor:
    """Towards another picture or away from it: grey, its mean, black, or a smoother one."""
    luma = (x * x.new_tensor([19595, 38470, 7471], dtype=torch.long)[:, None, None]).sum(1, keepdim=True)
    luma = ((luma + (1 << 15)) >> 16).float()
    mean = (luma.double().mean(dim=(2, 3), keepdim=True) + 0.5).floor().float().expand_as(luma)
    pixels, what = x.float(), op[:, None, None, None]
    other = torch.where(what == Op.COLOUR, luma, torch.where(what == Op.CONTRAST, mean, 0.0))
    other = torch.where(what == Op.SHARPNESS, smoothed(pixels), other)
    factor = (1 + 0.9 * level * sign).clamp(min=0.1)[:, None, None, None]
    return (other + factor * (pixels - other)).clamp(0, 255).to(torch.uint8)


def smoothed(pixels: Tensor) -> Tensor:
    """Each pixel five times and its eight neighbours once; the edge stays."""
    channels = pixels.shape[1]
    weights = torch.ones(channels, 1, 3, 3, device=pixels.device)
    weights[:, :, 1, 1] = 5
    inner = F.conv2d(pixels, weights, groups=channels) / 13 + 0.5
    smooth = pixels.clone()
    smooth[:, :, 1:-1, 1:-1] = inner.floor()
    return smooth


def moved(x: Tensor, op: Tensor, level: Tensor, sign: Tensor) -> Tensor:
    """Turned, sheared or shifted; what comes in from outside has the mean colour."""
    height, width = x.shape[2:]
    amount = level * sign
    angle = torch.where(op == Op.ROTATE, amount * math.radians(30), 0.0)
    cos, sin = angle.cos(), angle.sin()
    shear_x, shear_y = (torch.where(op == which, 0.3 * amount, 0.0) for which in (Op.SHEAR_X, Op.SHEAR_Y))
    across = torch.where(op == Op.TRANSLATE_X, 0.45 * amount * width, 0.0) + shear_x * height / 2
    down = torch.where(op == Op.TRANSLATE_Y, 0.45 * amount * height, 0.0) + shear_y * width / 2
    # From a pixel, counted from the middle, to where it is read; a shear begins at the first row or column.
    linear = torch.stack([torch.stack([cos, -sin + shear_x], 1), torch.stack([sin + shear_y, cos], 1)], 1)
    side = x.new_tensor([width / 2, height / 2], dtype=torch.float)
    theta = torch.cat([linear * side / side[:, None], (torch.stack([across, down], 1) / side)[:, :, None]], 2)
    grid = F.affine_grid(theta, [len(x), 1, height, width], align_corners=False)
    fill = (255 * torch.tensor(IMAGENET_MEAN, device=x.device)).round()[:, None, None]
    read = F.grid_sample(x.float() - fill, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    return (read + fill + 0.5).clamp(0, 255).to(torch.uint8)
