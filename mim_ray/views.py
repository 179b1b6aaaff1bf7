"""The three tuples that cross from room to room.

B images, N patches of an image in raster order, K of them that are shown, D features.
"""

from typing import NamedTuple

from torch import Tensor


class Hiding(NamedTuple):
    """Which patches must not be seen, drawn once and kept in the form each reader wants."""

    order: Tensor
    """(B, N) patch numbers: the shown ones first, in raster order, then the hidden ones, in raster order."""
    shown: int

    @property
    def kept(self) -> Tensor:
        """(B, K) numbers of the shown patches."""
        return self.order[:, : self.shown]

    @property
    def hidden(self) -> Tensor:
        """(B, N − K) numbers of the hidden patches."""
        return self.order[:, self.shown :]


class View(NamedTuple):
    """T → f."""

    pixels: Tensor
    """(B, C, H, W), normalised."""
    hiding: Hiding | None
    """None: everything is shown."""


class Tokens(NamedTuple):
    """f → M."""

    patches: Tensor
    """(B, K, D)."""
    pooled: Tensor
    """(B, D): the class token, or the mean where there is none."""
    kept: Tensor | None
    """(B, K) patch numbers; None: all N."""


class Measured(NamedTuple):
    """M → loop."""

    loss: Tensor
    parts: dict[str, Tensor]
    """Detached scalars, still on the device."""
