"""The tuples that cross from room to room.

B images, N patches of an image in raster order, K of them that are shown, D features.
"""

from typing import NamedTuple

import torch
from torch import Tensor


class Grid(NamedTuple):
    """How a picture is divided: patches for hiding, or the cells of a feature map."""

    rows: int
    columns: int
    patch: int
    """Side of a patch in pixels."""

    @property
    def patches(self) -> int:
        return self.rows * self.columns

    @property
    def is_square(self) -> bool:
        return self.rows == self.columns


class Hiding(NamedTuple):
    """Which patches must not be seen, drawn once; at least one is shown and at least one is hidden."""

    order: Tensor
    """(B, N) patch numbers: the shown ones first, then the hidden ones."""
    shown: int

    @property
    def kept(self) -> Tensor:
        """(B, K) numbers of the shown patches."""
        return self.order[:, : self.shown]

    @property
    def hidden(self) -> Tensor:
        """(B, N − K) numbers of the hidden patches."""
        return self.order[:, self.shown :]

    @property
    def mask(self) -> Tensor:
        """(B, N) bool in raster order, True where hidden."""
        return torch.zeros_like(self.order, dtype=torch.bool).scatter(1, self.hidden, True)


class View(NamedTuple):
    """T → f."""

    pixels: Tensor
    """(B, C, H, W), normalised."""
    hiding: Hiding | None
    """None: everything is shown."""
    source: Tensor | None = None
    """The picture it was made of, where that is another."""

    @property
    def picture(self) -> Tensor:
        return self.pixels if self.source is None else self.source


class Tokens(NamedTuple):
    """f → M."""

    patches: Tensor
    """(B, K, D)."""
    pooled: Tensor
    """(B, D): the class token, or the mean where there is none."""
    kept: Tensor | None
    """(B, K) patch numbers; None: all N, in raster order."""


class Candidates(NamedTuple):
    """Among whom a picture must find its like: the pictures of all workers."""

    features: Tensor
    """(all pictures, positions, D), of unit length."""
    offered: Tensor | None
    """(all pictures, positions): which there are; None: all."""
    first: int
    """Which of them is the like of the first picture at hand."""


class Against(NamedTuple):
    """With what the first view is compared, made beforehand for a batch that is taken in pieces."""

    other: Tokens
    among: Candidates


class Labelled(NamedTuple):
    """What takes the place of the second view's tokens where labels are the target."""

    label: Tensor
    """(B,) class numbers."""
    other: Tensor | None = None
    """(B,) class numbers of the pictures that were mixed in."""
    share: Tensor | None = None
    """(B,) share of the picture that is its own."""


class Given(NamedTuple):
    """What a measurement must know about the encoder and the two views before it can be built."""

    width: int
    channels: int
    grid: Grid
    """The patches that are hidden or shown."""
    cells: Grid
    """What the encoder's tokens stand for."""
    drops: bool
    """Whether hidden patches have no tokens."""
    hides: tuple[bool, bool]
    """Whether the first and the second view hide anything."""
    stop_gradient: bool
    """Whether the second branch is a constant to the comparison."""


class Measured(NamedTuple):
    """M → loop."""

    loss: Tensor
    parts: dict[str, Tensor]
    """Detached scalars, still on the device."""
