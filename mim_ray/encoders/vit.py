"""Vision transformers: a hidden patch is dropped, or a token takes its place or is added to it at a block."""

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
import torch
from pydantic import Field, PositiveInt, model_validator
from torch import Tensor, nn

from mim_ray.blocks import EPSILON, Block, is_sincos, patchified, sincos, start_weights, taken
from mim_ray.config import Spec
from mim_ray.errors import Mistake
from mim_ray.views import Grid, Tokens, View


class Shape(NamedTuple):
    width: int
    depth: int
    heads: int
    middle: int
    """After which block A²MIM adds its token: as published for small and base, about two thirds elsewhere."""


SHAPES = {
    "micro": Shape(128, 6, 4, 3),
    "tiny": Shape(192, 12, 3, 5),
    "small": Shape(384, 12, 6, 5),
    "base": Shape(768, 12, 12, 8),
    "large": Shape(1024, 24, 16, 16),
    "huge": Shape(1280, 32, 16, 21),
}


class ViT(Spec):
    kind: Literal["vit"] = "vit"
    size: Literal["micro", "tiny", "small", "base", "large", "huge"] = Field(
        "base", description="micro is for 32-pixel pictures with patch=4"
    )
    patch: PositiveInt = Field(16, description="side of a patch, in pixels")
    channels: PositiveInt = 3
    hidden: Literal["drop", "replace", "add"] = Field(
        "drop", description="hidden patches are left out, or a learned token replaces them or is added to them"
    )
    at: int | None = Field(
        None, ge=0, description="after how many blocks the token enters; none: 0 to replace, the middle to add"
    )
    freeze_patches: bool = Field(False, description="keep the patch embedding as it is drawn")
    depth: PositiveInt | None = Field(None, description="the first blocks alone; none: all that the size has")
    norm: bool = Field(True, description="after the last block; false where a classifier brings its own")
    drop_path: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="probability that a picture skips the last block; of the others, in proportion",
    )

    @model_validator(mode="after")
    def _token_has_a_place(self) -> "ViT":
        depth = self.blocks
        if depth > SHAPES[self.size].depth:
            raise ValueError(f"depth={depth}: a {self.size} ViT has {SHAPES[self.size].depth} blocks")
        if self.at is not None and self.hidden == "drop":
            raise ValueError(f"at={self.at}: dropped patches have no token: expected hidden=replace or hidden=add")
        if self.at is not None and self.at > depth:
            raise ValueError(f"at={self.at}: a {self.size} ViT has {depth} blocks: expected 0 to {depth}")
        return self

    @property
    def blocks(self) -> int:
        return SHAPES[self.size].depth if self.depth is None else self.depth

    @property
    def entry(self) -> int:
        if self.at is not None:
            return self.at
        return min(SHAPES[self.size].middle, self.blocks) if self.hidden == "add" else 0

    @property
    def entries(self) -> tuple[int, ...]:
        """After how many blocks a token can enter so that some come after it."""
        return tuple(range(self.blocks))

    def token_is_last(self, image: tuple[int, int]) -> bool:
        """Whether nothing of the encoder comes after it."""
        return self.entry == self.blocks

    def grid(self, image: tuple[int, int]) -> Grid:
        if any(side % self.patch for side in image):
            raise Mistake(f"patch={self.patch}: pictures of {image[0]} × {image[1]} are not whole patches")
        return Grid(image[0] // self.patch, image[1] // self.patch, self.patch)

    def fits(self, image: tuple[int, int], hides: bool) -> None:
        """Refuses pictures that are not whole patches."""
        self.grid(image)

    def build(self, image: tuple[int, int], *, hides: bool, pooled: bool) -> "VisionTransformer":
        return VisionTransformer(self, self.grid(image), hides)


class VisionTransformer(nn.Module):
    """Class token, fixed positions, blocks, and a norm at the end; the weights are named as timm's."""

    pos_embed: Tensor

    def __init__(self, spec: ViT, grid: Grid, hides: bool) -> None:
        super().__init__()
        shape = SHAPES[spec.size]
        self.grid = self.cells = grid
        self.width, self.hidden, self.entry = shape.width, spec.hidden, spec.entry
        self.patch_embed = nn.Linear(spec.patch**2 * spec.channels, shape.width)
        self.cls_token = nn.Parameter(torch.empty(1, 1, shape.width))
        self.register_buffer("pos_embed", sincos(shape.width, grid)[None])
        skips = np.linspace(0, spec.drop_path, spec.blocks)
        self.blocks = nn.ModuleList(Block(shape.width, shape.heads, float(skip)) for skip in skips)
        self.norm = nn.LayerNorm(shape.width, EPSILON) if spec.norm else nn.Identity()
        start_weights(self)
        nn.init.normal_(self.cls_token, std=0.02)
        self.patch_embed.requires_grad_(not spec.freeze_patches)
        if hides and spec.hidden != "drop":
            self.mask_token = nn.Parameter(torch.zeros(1, 1, shape.width))
            nn.init.normal_(self.mask_token, std=0.02)

    def forward(self, view: View) -> Tokens:
        return self.encode([view])[0]

    def encode(self, views: Sequence[View]) -> list[Tokens]:
        """All views in one pass: their sequences lie end to end, and only attention tells them apart."""
        sequences = [self._embedded(view) for view in views]
        lengths = [sequence.shape[1] for sequence in sequences]
        x = torch.cat(sequences, dim=1) if len(sequences) > 1 else sequences[0]
        for number, block in enumerate(self.blocks):
            x = block(self._marked(x, views, number), lengths)
        x = self.norm(self._marked(x, views, len(self.blocks)))
        return [
            Tokens(part[:, 1:], part[:, 0], view.hiding.kept if view.hiding and self.hidden == "drop" else None)
            for part, view in zip(x.split(lengths, dim=1), views, strict=True)
        ]

    @property
    def layers(self) -> int:
        """How many there are to count learning rates by: the embedding, each block, what comes after them."""
        return len(self.blocks) + 2

    def layer_of(self, name: str) -> int:
        """Of a weight, by its name."""
        part, _, rest = name.partition(".")
        if part == "blocks":
            return int(rest.partition(".")[0]) + 1
        return self.layers - 1 if part == "norm" else 0

    def resampled(self, positions: Tensor) -> Tensor:
        """A table of another picture size, for this one.

        A table does not say which grid it is of: fixed ones are known again and made for this grid, learned
        ones (timm's) are of square pictures, whose side their number of rows tells.
        """
        if is_sincos(positions):
            return sincos(self.width, self.grid)[None]
        patches = positions.shape[1] - 1 if positions.dim() == 3 else 0
        side = math.isqrt(patches)
        if side * side != patches or not patches:
            raise Mistake(f"pos_embed: {_described(positions)}: expected one for the class token, and n · n")
        if self.grid[:2] == (side, side):
            return positions
        from timm.layers.pos_embed import resample_abs_pos_embed  # here, for it takes seconds to import

        here = [self.grid.rows, self.grid.columns]
        return resample_abs_pos_embed(positions, here, [side, side], num_prefix_tokens=1)  # type: ignore[no-any-return]

    def _embedded(self, view: View) -> Tensor:
        patches, positions = patchified(view.pixels, self.grid.patch), self.pos_embed[:, 1:]
        if view.hiding is not None and self.hidden == "drop":
            patches = taken(patches, view.hiding.kept)
            positions = taken(positions.expand(len(patches), -1, -1), view.hiding.kept)
        first = (self.cls_token + self.pos_embed[:, :1]).expand(patches.shape[0], -1, -1)
        return torch.cat([first, self.patch_embed(patches) + positions], dim=1)

    def _marked(self, x: Tensor, views: Sequence[View], number: int) -> Tensor:
        """The token in the places of the hidden patches, if it enters before this block."""
        if self.hidden == "drop" or number != self.entry or all(view.hiding is None for view in views):
            return x
        nowhere = x.new_zeros(len(x), self.grid.patches + 1, dtype=torch.bool)
        hidden = [
            nowhere if view.hiding is None else torch.cat([nowhere[:, :1], view.hiding.mask], dim=1)
            for view in views
        ]
        mask = torch.cat(hidden, dim=1)[..., None]
        if self.hidden == "add":
            return x + self.mask_token * mask
        token = (self.mask_token + self.pos_embed).repeat(1, len(views), 1).to(x.dtype)
        return torch.where(mask, token, x)


def _described(positions: Tensor) -> str:
    rows = positions.shape[1] if positions.dim() == 3 else 0
    if math.isqrt(rows) ** 2 == rows > 0:
        return f"{rows} learned positions, none of them for the class token"
    if math.isqrt(max(rows - 2, 0)) ** 2 == rows - 2:
        return f"{rows} learned positions, two of them for tokens (a distilled model)"
    return f"{rows} learned positions, of a picture that is not square or with more tokens than the class token"
