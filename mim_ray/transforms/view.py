"""T: from a batch of crops to what an encoder is shown."""

from torch import Tensor

from mim_ray.config import Spec
from mim_ray.transforms.mask import Mask
from mim_ray.transforms.pixels import normalised
from mim_ray.views import View


class T(Spec):
    """A transformation of a picture; a second one may be told what the first has hidden."""

    mask: Mask | None = None

    def __call__(
        self, crops: Tensor, position: Tensor, *, patches: int, seed: int, view: int, partner: View | None
    ) -> View:
        hiding = None
        if self.mask is not None:
            hiding = self.mask.hiding(patches, position, seed, view, partner and partner.hiding)
        return View(normalised(crops), hiding)
