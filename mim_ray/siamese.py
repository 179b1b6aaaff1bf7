"""The sentence: loss = M(f(T1(x)), …)."""

from torch import Tensor, nn

from mim_ray.config import Spec
from mim_ray.encoders.vit import ViT
from mim_ray.measures.reconstruct import Reconstruct
from mim_ray.transforms.view import T
from mim_ray.views import Measured


class Method(Spec):
    """What is shown, to which encoder, and how the result is measured."""

    t1: T = T()
    encoder: ViT = ViT()
    measure: Reconstruct = Reconstruct()

    def build(self, image: tuple[int, int], seed: int = 0) -> "Siamese":
        return Siamese(self, image, seed)


class Siamese(nn.Module):
    """What DDP wraps: crops in, loss out."""

    def __init__(self, method: Method, image: tuple[int, int], seed: int) -> None:
        super().__init__()
        encoder = method.encoder
        self.t1, self.seed = method.t1, seed
        self.online = encoder.build(image)
        self.measure = method.measure.build(
            self.online.width, encoder.patch, encoder.channels, encoder.grid(image)
        )

    def forward(self, crops: tuple[Tensor, ...], position: Tensor) -> Measured:
        """`position`: where each image stands in the stream of samples, the key of every draw."""
        patches = self.online.grid[0] * self.online.grid[1]
        a = self.t1(crops[0], position, patches=patches, seed=self.seed, view=0, partner=None)
        return self.measure(self.online(a), a)  # type: ignore[no-any-return]
