"""Which patches of a picture are hidden: a function of (seed, view, position) alone."""

import math
from typing import Annotated, Literal

import torch
from pydantic import Field, PositiveInt
from torch import Tensor

from mim_ray.config import Spec
from mim_ray.draws import Purpose
from mim_ray.errors import Mistake
from mim_ray.transforms.keyed import keys, mixed
from mim_ray.views import Grid, Hiding


class RandomMask(Spec):
    """Hides `ratio` of the blocks, drawn for every picture by itself."""

    kind: Literal["random"] = "random"
    ratio: float = Field(0.75, ge=0, lt=1, description="share that is hidden; rounded so that no more is shown")
    block: PositiveInt | None = Field(None, description="side in pixels of what is hidden as one; none: a patch")

    def hiding(self, grid: Grid, position: Tensor, seed: int, view: int, partner: Hiding | None) -> Hiding | None:
        blocks, shown = self.count(grid)
        if shown == blocks:
            return None
        key = keys(Purpose.MASK, seed, view, position)
        order = mixed(key[:, None] ^ mixed(torch.arange(blocks, device=position.device))).argsort(dim=1)
        members = self._members(grid, position.device)
        return Hiding(members[order].flatten(1) if members.shape[1] > 1 else order, shown * members.shape[1])

    def hides(self, grid: Grid, partner: bool) -> bool:
        """Whether anything is hidden; `partner`: whether the other view hides anything."""
        blocks, shown = self.count(grid)
        return shown < blocks

    def count(self, grid: Grid) -> tuple[int, int]:
        """How many blocks there are and how many are shown; refuses what cannot be."""
        side = self.block or grid.patch
        if side % grid.patch:
            raise Mistake(f"block={side}: expected a multiple of the patch, which has {grid.patch} pixels")
        scale = side // grid.patch
        if grid.rows % scale or grid.columns % scale:
            height, width = grid.rows * grid.patch, grid.columns * grid.patch
            raise Mistake(f"block={side}: pictures of {height} × {width} are not whole blocks")
        blocks = grid.patches // scale**2
        shown = int(blocks * (1 - self.ratio) + 1e-9)
        if not shown:
            most = math.floor((1 - 1 / blocks) * 1e6) / 1e6
            raise Mistake(f"ratio={self.ratio}: hides all of {blocks} blocks: expected at most {most:g}")
        return blocks, shown

    def _members(self, grid: Grid, device: torch.device) -> Tensor:
        """(blocks, patches of a block) patch numbers."""
        scale = (self.block or grid.patch) // grid.patch
        numbers = torch.arange(grid.patches, device=device)
        blocks = numbers.view(grid.rows // scale, scale, grid.columns // scale, scale).permute(0, 2, 1, 3)
        return blocks.reshape(-1, scale**2)


class ComplementMask(Spec):
    """Hides exactly what the partner shows, and shows exactly what it hides; all, where that is all."""

    kind: Literal["complement"] = "complement"

    def hides(self, grid: Grid, partner: bool) -> bool:
        return partner

    def hiding(self, grid: Grid, position: Tensor, seed: int, view: int, partner: Hiding | None) -> Hiding | None:
        if partner is None:
            return None
        return Hiding(partner.order.roll(-partner.shown, dims=1), grid.patches - partner.shown)


Mask = Annotated[RandomMask | ComplementMask, Field(discriminator="kind")]
