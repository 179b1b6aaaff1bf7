"""Pictures turned about their middle, each by an angle of its own."""

import math

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from mim_ray.config import Spec
from mim_ray.transforms.keyed import uniforms


class Rotate(Spec):
    """What comes in at the corners is the picture, mirrored at its edge."""

    degrees: float = Field(30.0, ge=0, le=180, description="most, to either side")

    def __call__(self, x: Tensor, key: Tensor) -> Tensor:
        """(B, C, H, W) bytes, or fractions of them, → fractions; read between four pixels."""
        height, width = x.shape[2:]
        angle = math.radians(self.degrees) * (2 * uniforms(key, 1)[:, 0] - 1)
        cos, sin, none = angle.cos(), angle.sin(), torch.zeros_like(angle)
        # Places in a picture are shares of its sides, which need not be alike.
        across = torch.stack([cos, -sin * height / width, none], 1)
        down = torch.stack([sin * width / height, cos, none], 1)
        where = F.affine_grid(torch.stack([across, down], 1), list(x.shape), align_corners=False)
        return F.grid_sample(x.float(), where, "bilinear", "reflection", align_corners=False)
