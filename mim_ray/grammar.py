"""Which sentences mean nothing, and why; refused where they are written."""

from typing import Protocol

from mim_ray.config import Spec
from mim_ray.encoders.cnn import CNN
from mim_ray.encoders.target import Ema, Labels, Pixels, Twin
from mim_ray.encoders.vit import ViT
from mim_ray.measures.classify import Classify, Probe
from mim_ray.measures.contrast import Contrast
from mim_ray.measures.fourier import Spectrum
from mim_ray.measures.heads import Linear
from mim_ray.measures.reconstruct import Reconstruct
from mim_ray.measures.relax import Relax
from mim_ray.transforms.mask import ComplementMask, RandomMask
from mim_ray.transforms.view import Shared, T


class Sentence(Protocol):
    """What these rules read of a method."""

    @property
    def crops(self) -> int: ...
    @property
    def shared(self) -> Shared: ...
    @property
    def t1(self) -> T: ...
    @property
    def t2(self) -> T: ...
    @property
    def encoder(self) -> ViT | CNN: ...
    @property
    def target(self) -> Pixels | Twin | Ema | Labels: ...
    @property
    def measure(self) -> Reconstruct | Relax | Contrast | Classify | Probe: ...
    @property
    def symmetric(self) -> bool: ...
    @property
    def frozen(self) -> bool: ...
    @property
    def mean(self) -> tuple[float, ...]: ...
    @property
    def std(self) -> tuple[float, ...]: ...


TARGETS = {
    Reconstruct: (Pixels,),
    Relax: (Twin, Ema),
    Contrast: (Twin, Ema),
    Classify: (Labels,),
    Probe: (Labels,),
}
WORDS = {Pixels: "pixels", Twin: "twin", Ema: "ema", Labels: "labels"}


def check_sentence(method: Sentence) -> None:
    _check_target(method)
    _check_second_view(method)
    _check_views(method)
    _check_tokens(method)
    _check_measure(method)
    _check_channels(method)


def encodes_both(method: Sentence) -> bool:
    return isinstance(method.target, Twin | Ema)


def _masks(method: Sentence) -> tuple[RandomMask | None, RandomMask | ComplementMask | None]:
    """What hides something in words, whatever the pictures: a ratio of 0 is no mask, nor is its complement."""
    first, second = (
        None if isinstance(view.mask, RandomMask) and view.mask.ratio == 0 else view.mask
        for view in (method.t1, method.t2)
    )
    if not isinstance(first, RandomMask):
        return None, None if isinstance(second, ComplementMask) else second
    return first, second


def unmasked(method: Sentence) -> tuple[str, str]:
    """How a first view that hides nothing was written, and how one that hides something is."""
    if method.t1.mask is None:
        return "method.t1.mask=none", "method.t1.mask=random"
    return "method.t1.mask.ratio=0", "a ratio above 0"


def _check_target(method: Sentence) -> None:
    measure, target = method.measure, method.target
    allowed = TARGETS[type(measure)]
    if not isinstance(target, allowed):
        wanted = " or ".join(f"method.target={WORDS[one]}" for one in allowed)
        raise ValueError(f"method.measure={measure.kind} does not compare with {target.kind}: expected {wanted}")
    if method.frozen and not isinstance(target, Labels):
        raise ValueError(f"method.frozen=true: {target.kind} would train nothing but a head: expected false")
    if method.shared.mixes and isinstance(measure, Probe):
        raise ValueError(
            "method.measure=probe: it knows one label of a picture: expected method.shared.cutmix=none and "
            "method.shared.mixup=none"
        )
    if method.symmetric and not encodes_both(method):
        raise ValueError(f"method.symmetric=true: {target.kind} cannot be exchanged with a view: expected false")
    if method.symmetric and isinstance(measure, Relax) and _masks(method)[1] is None:
        raise ValueError(
            "method.symmetric=true: the second view hides nothing to score: expected method.t2.mask=random"
        )


def _check_second_view(method: Sentence) -> None:
    """Of a second view that nobody encodes, only what is scored has a meaning."""
    mask, fill, colour = method.t2.mask, method.t2.fill, method.t2.colour
    if isinstance(method.target, Pixels):
        if fill != "none":
            raise ValueError(f"method.t2.fill={fill}: it would change the pixels that are compared: expected none")
        if colour is not None:
            raise ValueError(
                "method.t2.colour=on: it would change the pixels that are compared: expected none, "
                "method.shared.colour=on for the whole picture or method.t1.colour=on for what the encoder sees"
            )
        if _masks(method)[0] is None and isinstance(mask, RandomMask) and mask.ratio:
            raise ValueError(
                "method.t2.mask=random: where the first view hides nothing all is painted: expected complement"
            )
    if isinstance(method.target, Labels):
        said = {"mask": mask and mask.kind, "fill": None if fill == "none" else fill, "colour": colour and "on"}
        for name, word in said.items():
            if word:
                raise ValueError(
                    f"method.t2.{name}={word}: labels have no second view: expected none, or method.t1.{name}"
                )


def _check_views(method: Sentence) -> None:
    measure, encoder = method.measure, method.encoder
    if isinstance(method.t1.mask, ComplementMask):
        raise ValueError("method.t1.mask=complement: the first view has no partner: expected random or none")
    by_place = isinstance(measure, Reconstruct | Relax) or (
        isinstance(measure, Contrast) and "token" in measure.by
    )
    if method.crops == 2 and by_place:
        raise ValueError("method.crops=2: patches of two windows do not correspond: expected method.crops=1")
    if method.crops == 2 and isinstance(method.target, Labels):
        raise ValueError("method.crops=2: labels have no second view: expected method.crops=1")
    if method.crops == 2 and isinstance(method.t2.mask, ComplementMask):
        raise ValueError(
            "method.t2.mask=complement: what one window hides is not where another shows it: "
            "expected method.t2.mask=random or none, or method.crops=1"
        )
    same = _masks(method) == (None, None) and method.t1.colour is None and method.t2.colour is None
    if same and isinstance(measure, Relax):
        said, masked = unmasked(method)
        raise ValueError(
            f"{said}: both views are the same picture, whose decodings have nothing to agree on: "
            f"expected {masked} or method.t2.mask=random"
        )
    if same and isinstance(measure, Contrast) and method.crops == 1:
        said, masked = unmasked(method)
        raise ValueError(
            f"{said}: both views are the same picture, which teaches nothing: expected {masked}, "
            "method.t1.colour=on or method.crops=2"
        )
    for name, view in (("t1", method.t1), ("t2", method.t2)):
        if view.fill != "none" and encoder.hidden == "drop":
            raise ValueError(
                f"method.{name}.fill={view.fill}: hidden patches are dropped, not filled: expected none"
            )
    for name, colour in (("t1", method.t1.colour), ("t2", method.t2.colour), ("shared", method.shared.colour)):
        if colour and colour.sigma[0] > colour.sigma[1]:
            raise ValueError(f"method.{name}.colour.sigma: expected the least and then the most")


def _check_tokens(method: Sentence) -> None:
    measure, encoder = method.measure, method.encoder
    first, second = _masks(method)
    drops = isinstance(encoder, ViT) and encoder.hidden == "drop"
    painted = (isinstance(measure, Reconstruct) and first) or (isinstance(measure, Relax) and (first or second))
    if painted and isinstance(measure, Reconstruct | Relax) and isinstance(measure.head, Linear) and drops:
        raise ValueError(
            "method.measure.head=linear: a dropped patch has no token to be painted from: "
            "expected method.measure.head=decoder, or method.encoder.hidden=replace or add"
        )
    by_token = isinstance(measure, Contrast) and "token" in measure.by
    if by_token and drops and isinstance(second, ComplementMask):
        raise ValueError(
            "method.t2.mask=complement: the views share no patch for a token-wise loss, since each drops what the "
            "other shows: expected method.t2.mask=none, method.encoder.hidden=replace, or "
            "method.measure.by=mean or class"
        )


def _check_measure(method: Sentence) -> None:
    measure, encoder = method.measure, method.encoder
    _check_relax(method)
    follows = isinstance(method.target, Twin) and not method.target.stop_gradient
    if isinstance(measure, Contrast) and measure.loss == "byol" and follows:
        raise ValueError(
            "method.target=twin: byol is perfect where all pictures are alike: expected method.target=ema or "
            "method.target.stop_gradient=true"
        )
    if isinstance(measure, Reconstruct) and measure.fourier is not None and measure.normalise:
        raise ValueError(
            "method.measure.normalise=true: patches that are normalised one by one make no picture to take a "
            "spectrum of: expected false, or method.measure.fourier=none"
        )
    if isinstance(measure, Contrast) and measure.loss == "byol" and measure.negatives == "all":
        raise ValueError(
            "method.measure.negatives=all: byol has no negatives: expected method.measure.negatives=position or "
            "method.measure.loss=infonce"
        )
    if isinstance(measure, Contrast) and measure.negatives == "all" and "token" not in measure.by:
        raise ValueError(
            f"method.measure.negatives=all: by={measure.by} compares one feature of each picture, so there are no "
            "other positions: expected method.measure.negatives=position or method.measure.by=token"
        )
    _check_idle_words(measure)
    one_value = encoder.patch**2 * encoder.channels == 1
    if one_value and isinstance(measure, Reconstruct | Relax) and measure.normalise:
        raise ValueError(
            "method.encoder.patch=1: a patch of one value has no variance to be divided by: "
            "expected a larger patch or method.measure.normalise=false"
        )


def _check_idle_words(measure: object) -> None:
    """Numbers that another word makes idle."""
    if isinstance(measure, Contrast) and measure.loss == "byol":
        _refuse_change(measure, "temperature", "method.measure.", "byol has none")
    if isinstance(measure, Reconstruct) and isinstance(measure.fourier, Spectrum) and not measure.fourier.focused:
        _refuse_change(measure.fourier, "alpha", "method.measure.fourier.", "focused=false weighs all alike")
    if isinstance(measure, Classify) and measure.loss == "ce":
        _refuse_change(measure, "threshold", "method.measure.", "it is for loss=bce")


def _refuse_change(spec: Spec, name: str, path: str, why: str) -> None:
    usual, value = type(spec).model_fields[name].default, getattr(spec, name)
    if value != usual:
        raise ValueError(f"{path}{name}={value}: {why}: leave it out")


def _check_relax(method: Sentence) -> None:
    measure, target = method.measure, method.target
    if not isinstance(measure, Relax) or not isinstance(target, Twin):
        return
    if measure.separate and measure.penalty == 0 and target.stop_gradient:
        raise ValueError(
            "method.measure.separate=true: nothing would train the second decoder: expected a "
            "method.measure.penalty above 0, or method.target.stop_gradient=false"
        )


def _check_channels(method: Sentence) -> None:
    channels = method.encoder.channels
    for name, values in (("mean", method.mean), ("std", method.std)):
        if len(values) != channels:
            raise ValueError(f"method.{name}: {len(values)} values for {channels} channels: expected one for each")
    if any(value <= 0 for value in method.std):
        raise ValueError("method.std: expected numbers above 0")
    if channels != 3 and method.shared.augment is not None:
        raise ValueError(
            f"method.encoder.channels={channels}: RandAugment needs 3: expected method.shared.augment=none"
        )
    jitters = (method.t1.colour, method.t2.colour, method.shared.colour)
    if channels != 3 and any(jitter is not None for jitter in jitters):
        raise ValueError(
            f"method.encoder.channels={channels}: colour jitter needs 3 channels: expected colour=none"
        )
