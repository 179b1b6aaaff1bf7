"""Vision transformers that look at the shown patches only."""

from typing import Literal, NamedTuple

import torch
from pydantic import Field, PositiveInt
from torch import Tensor, nn

from mim_ray.blocks import EPSILON, Block, patchified, sincos, start_weights, taken
from mim_ray.config import Spec
from mim_ray.errors import Mistake
from mim_ray.views import Tokens, View


class Shape(NamedTuple):
    width: int
    depth: int
    heads: int


SHAPES = {
    "micro": Shape(128, 6, 4),
    "tiny": Shape(192, 12, 3),
    "small": Shape(384, 12, 6),
    "base": Shape(768, 12, 12),
    "large": Shape(1024, 24, 16),
    "huge": Shape(1280, 32, 16),
}
Size = Literal["micro", "tiny", "small", "base", "large", "huge"]


class ViT(Spec):
    size: Size = Field("base", description="micro is for 32-pixel pictures with patch=4")
    patch: PositiveInt = Field(16, description="side of a patch, in pixels")
    channels: PositiveInt = 3

    def grid(self, image: tuple[int, int]) -> tuple[int, int]:
        """Rows and columns of patches."""
        if any(side % self.patch for side in image):
            raise Mistake(
                f"method.encoder.patch={self.patch}: pictures of {image[0]} × {image[1]} are not whole patches"
            )
        return image[0] // self.patch, image[1] // self.patch

    def build(self, image: tuple[int, int]) -> "VisionTransformer":
        return VisionTransformer(self, self.grid(image))


class VisionTransformer(nn.Module):
    """Class token, fixed positions, blocks, and a norm at the end."""

    pos_embed: Tensor

    def __init__(self, spec: ViT, grid: tuple[int, int]) -> None:
        super().__init__()
        shape = SHAPES[spec.size]
        self.patch, self.grid, self.width = spec.patch, grid, shape.width
        self.patch_embed = nn.Linear(spec.patch**2 * spec.channels, shape.width)
        self.cls_token = nn.Parameter(torch.empty(1, 1, shape.width))
        self.register_buffer("pos_embed", sincos(shape.width, grid)[None])
        self.blocks = nn.ModuleList(Block(shape.width, shape.heads) for _ in range(shape.depth))
        self.norm = nn.LayerNorm(shape.width, EPSILON)
        start_weights(self)
        nn.init.normal_(self.cls_token, std=0.02)

    def forward(self, view: View) -> Tokens:
        patches = patchified(view.pixels, self.patch)
        positions = self.pos_embed[:, 1:].expand(len(patches), -1, -1)
        kept = None if view.hiding is None else view.hiding.kept
        if kept is not None:
            patches, positions = taken(patches, kept), taken(positions, kept)
        first = (self.cls_token + self.pos_embed[:, :1]).expand(len(patches), -1, -1)
        x = torch.cat([first, self.patch_embed(patches) + positions], dim=1)
        for block in self.blocks:
            x = block(x)
        x = self.norm(x)
        return Tokens(x[:, 1:], x[:, 0], kept)
