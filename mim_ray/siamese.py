"""The sentence: loss = M(f(T1(x)), f'(T2(x)))."""

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from mim_ray.config import Spec
from mim_ray.encoders.encoder import Encoder, EncoderModule
from mim_ray.encoders.target import Ema, Labels, Pixels, Target, Twin, follow, shadow_of
from mim_ray.encoders.vit import ViT
from mim_ray.errors import Mistake
from mim_ray.grammar import check_sentence
from mim_ray.grammar_of_pictures import check_picture, hidings
from mim_ray.measures.classify import Classification, Probing
from mim_ray.measures.contrast import Contrast, Contrasting
from mim_ray.measures.measure import Measure
from mim_ray.measures.reconstruct import Reconstruct
from mim_ray.transforms.cutmix import neighbours
from mim_ray.transforms.mask import ComplementMask
from mim_ray.transforms.pixels import IMAGENET_MEAN, IMAGENET_STD, Normalise
from mim_ray.transforms.view import Shared, T
from mim_ray.views import Against, Given, Hiding, Labelled, Measured, Tokens, View
from mim_ray.world import with_global_norms


class Method(Spec):
    """What is shown, to which encoder, and what it is compared with, how."""

    crops: Literal[1, 2] = Field(1, description="windows of a picture: one for both views, or one for each")
    shared: Shared = Shared()
    t1: T = T()
    t2: T = T(mask=ComplementMask())
    encoder: Encoder = ViT()
    target: Target = Pixels()
    measure: Measure = Reconstruct()
    symmetric: bool = Field(False, description="add the loss with the views exchanged")
    frozen: bool = Field(False, description="the encoder stays as it begins: what follows it is trained alone")
    mean: tuple[float, ...] = Field(IMAGENET_MEAN, description="of each channel, subtracted")
    std: tuple[float, ...] = Field(IMAGENET_STD, description="of each channel, divided by")

    @model_validator(mode="after")
    def _means_something(self) -> "Method":
        check_sentence(self)
        return self

    def fits(self, image: tuple[int, int]) -> None:
        """Refuses pictures that the method cannot divide."""
        check_picture(self, image)

    def build(self, image: tuple[int, int], seed: int = 0) -> "Siamese":
        self.fits(image)
        return Siamese(self, image, seed)


class Branch(nn.Module):
    """An encoder and the part of the measurement that the target shares with it."""

    encoder: EncoderModule

    def __init__(self, encoder: EncoderModule, projection: nn.Module) -> None:
        super().__init__()
        self.encoder, self.projection = encoder, projection

    def forward(self, view: View) -> Tokens:
        return self.projection(self.encoder(view))  # type: ignore[no-any-return]

    def pair(self, a: View, b: View) -> tuple[Tokens, Tokens]:
        first, second = self.encoder.encode([a, b])
        return self.projection(first), self.projection(second)


class Siamese(nn.Module):
    """What DDP wraps: crops in, loss out."""

    def __init__(self, method: Method, image: tuple[int, int], seed: int) -> None:
        super().__init__()
        self.method, self.seed = method, seed
        self.normalise = Normalise(method.mean, method.std)
        hides = hidings(method, image)
        encoder = method.encoder.build(image, hides=any(hides), pooled=method.measure.uses_pooled)
        given = Given(
            width=encoder.width,
            channels=method.encoder.channels,
            grid=encoder.grid,
            cells=encoder.cells,
            drops=encoder.hidden == "drop",
            hides=(any(hides),) * 2 if method.symmetric else hides,
            stop_gradient=isinstance(method.target, Twin) and method.target.stop_gradient,
        )
        self.online = Branch(encoder, with_global_norms(method.measure.projection(given)))
        self.measure = with_global_norms(method.measure.build(given))
        if method.frozen:
            encoder.requires_grad_(False)
        self.target = shadow_of(self.online) if isinstance(method.target, Ema) else None

    def forward(
        self,
        crops: tuple[Tensor, ...],
        position: Tensor,
        labels: Tensor | None = None,
        against: Sequence[Against] = (),
    ) -> Measured:
        """`position`: where each image stands in the stream of samples, the key of every draw.

        `against`: what `compared_with` made, where these pictures are a piece of a larger batch.
        """
        self._check_crops(crops)
        a, b, share = self.prepared(crops, position)
        if isinstance(self.method.target, Pixels):
            return self.measure(self.online(a), None, a, b)  # type: ignore[no-any-return]
        if isinstance(self.method.target, Labels):
            return self.measure(self._seen(a), self._labelled(labels, share), a, b)  # type: ignore[no-any-return]
        if against:
            return self._found(a, b, against)
        seen, seen_too, other, other_too = self._compared(a, b)
        measured = self.measure(seen, other, a, b)
        if not self.method.symmetric:
            return measured  # type: ignore[no-any-return]
        return added(measured, self.measure(seen_too, other_too, b, a))

    def train(self, mode: bool = True) -> "Siamese":
        """A frozen encoder is always as in evaluation."""
        super().train(mode)
        if self.method.frozen:
            self.online.encoder.eval()
        return self

    def logits(self, crops: Tensor) -> dict[str, Tensor]:
        """(B, classes) of whole pictures, by each classifier; of methods whose target is labels."""
        assert isinstance(self.measure, Classification | Probing)
        return self.measure.logits(self._seen(View(self.normalise(crops), None)))

    def rate_of(self, name: str) -> float:
        """What a weight outside the encoder multiplies the learning rate by."""
        ours = name.removeprefix("measure.")
        return self.measure.rate_of(ours) if isinstance(self.measure, Probing) and ours != name else 1.0

    def _seen(self, view: View) -> Tokens:
        with torch.no_grad() if self.method.frozen else nullcontext():
            return self.online(view)  # type: ignore[no-any-return]

    @property
    def compares_with_the_batch(self) -> bool:
        """Whether a picture's loss depends on the others of its batch through the candidates of a contrast."""
        measure = self.method.measure
        return isinstance(measure, Contrast) and measure.loss == "infonce"

    @torch.no_grad()
    def compared_with(
        self, crops: tuple[Tensor, ...], position: Tensor, pieces: Sequence[slice]
    ) -> list[list[Against]]:
        """For each piece of a batch, in each direction: the target's features, and those of all workers."""
        assert self.target is not None
        found: list[list[Tokens]] = []
        for piece in pieces:
            a, b, _ = self.prepared(tuple(crop[piece] for crop in crops), position[piece])
            found.append([self.target(view) for view in ((b, a) if self.method.symmetric else (b,))])
        assert isinstance(self.measure, Contrasting)
        directions = [self.measure.candidates(joined(tokens)) for tokens in zip(*found, strict=True)]
        return [
            [
                Against(other, among._replace(first=among.first + piece.start))
                for other, among in zip(others, directions, strict=True)
            ]
            for piece, others in zip(pieces, found, strict=True)
        ]

    def _found(self, a: View, b: View, against: Sequence[Against]) -> Measured:
        measured = self.measure(self.online(a), against[0].other, a, b, against[0].among)
        if len(against) == 1:
            return measured  # type: ignore[no-any-return]
        return added(measured, self.measure(self.online(b), against[1].other, b, a, against[1].among))

    def prepared(self, crops: tuple[Tensor, ...], position: Tensor) -> tuple[View, View, Tensor | None]:
        """Both views, and which share of each picture is its own where pictures are mixed."""
        shared, normalise, seed = self.method.shared, self.normalise, self.seed
        crops = tuple(shared.augmented(crop, position, normalise, seed, view) for view, crop in enumerate(crops))
        mixed = shared.mixed(crops, position, seed)
        whole = crops if mixed is None else mixed.crops
        pixels = [self._pixels(crop, position, view) for view, crop in enumerate(whole)]
        return *self.views(pixels[0], pixels[-1], position), None if mixed is None else mixed.share

    def _check_crops(self, crops: tuple[Tensor, ...]) -> None:
        """Others would be cut or left out in silence; shapes are static, so a compiled graph holds no check."""
        wanted, grid = self.method.crops, self.online.encoder.grid
        if len(crops) != wanted:
            raise Mistake(f"method.crops={wanted}: {len(crops)} windows of each picture came: expected {wanted}")
        height, width = grid.rows * grid.patch, grid.columns * grid.patch
        for crop in crops:
            if crop.shape[2] != height or crop.shape[3] != width:
                came = f"{crop.shape[2]} × {crop.shape[3]}"
                raise Mistake(
                    f"data.crop.size={height},{width}: pictures of {came} came: expected {height} × {width}"
                )

    def views(self, first: Tensor, second: Tensor, position: Tensor) -> tuple[View, View]:
        """T1 and T2 of normalised pixels."""
        a = self._transformed(self.method.t1, first, position, 0, None)
        return a, self._transformed(self.method.t2, second, position, 1, a.hiding)

    def _transformed(self, t: T, pixels: Tensor, position: Tensor, view: int, partner: Hiding | None) -> View:
        grid = self.online.encoder.grid
        return t(pixels, position, grid=grid, normalise=self.normalise, seed=self.seed, view=view, partner=partner)

    def follow(self, momentum: float) -> None:
        """The target after a step, where there is one."""
        if self.target is not None:
            follow(self.target, self.online, momentum)

    def _pixels(self, crop: Tensor, position: Tensor, view: int) -> Tensor:
        return self.method.shared.coloured(self.normalise(crop), position, self.normalise, self.seed, view)

    def _compared(self, a: View, b: View) -> tuple[Tokens, Tokens | None, Tokens, Tokens | None]:
        """Of both views: what the online branch says, and what it is compared with; None where nobody asks."""
        if self.target is None and not self._second_is_constant:
            first, second = self.online.pair(a, b)
            return first, second, second, first
        target = self.online if self.target is None else self.target
        with torch.no_grad():
            other, other_too = target(b), target(a) if self.method.symmetric else None
        return self.online(a), self.online(b) if self.method.symmetric else None, other, other_too

    @property
    def _second_is_constant(self) -> bool:
        """Whether a twin's second view is features that no gradient passes; each view is encoded once for all."""
        target, measure = self.method.target, self.method.measure
        stops = isinstance(target, Twin) and target.stop_gradient and isinstance(measure, Contrast)
        return stops and not self.method.symmetric

    @staticmethod
    def _labelled(labels: Tensor | None, share: Tensor | None) -> Labelled:
        if labels is None:
            raise Mistake("method.target=labels: the data have no labels: expected a labelled set")
        return Labelled(labels, None if share is None else neighbours(labels), share)


def joined(parts: Sequence[Tokens]) -> Tokens:
    kept = [part.kept for part in parts if part.kept is not None]
    return Tokens(
        torch.cat([part.patches for part in parts]),
        torch.cat([part.pooled for part in parts]),
        torch.cat(kept) if kept else None,
    )


def added(one: Measured, other: Measured) -> Measured:
    return Measured(one.loss + other.loss, {name: part + other.parts[name] for name, part in one.parts.items()})
