"""Which sentences mean nothing for pictures of a size."""

from collections.abc import Iterator
from contextlib import contextmanager

from mim_ray.encoders.target import Ema
from mim_ray.encoders.vit import ViT
from mim_ray.errors import Mistake
from mim_ray.grammar import Sentence, encodes_both, unmasked
from mim_ray.measures.contrast import Contrast
from mim_ray.measures.heads import Linear
from mim_ray.measures.reconstruct import Reconstruct
from mim_ray.transforms.mask import RandomMask
from mim_ray.views import Grid


def hidings(method: Sentence, image: tuple[int, int]) -> tuple[bool, bool]:
    """Whether the first view, and the second if it is encoded, hide anything."""
    grid, first, second = method.encoder.grid(image), method.t1.mask, method.t2.mask
    hides = first is not None and first.hides(grid, False)
    return hides, encodes_both(method) and second is not None and second.hides(grid, hides)


def check_picture(method: Sentence, image: tuple[int, int]) -> None:
    """What depends on the size of the pictures."""
    with _named("method.encoder."):
        grid = method.encoder.grid(image)
    for name, view in (("t1", method.t1), ("t2", method.t2)):
        if isinstance(view.mask, RandomMask):
            with _named(f"method.{name}.mask."):
                view.mask.count(grid)
    first, second = hidings(method, image)
    with _named("method.encoder."):
        method.encoder.fits(image, hides=first or second)
    _check_painting(method, image, first)
    _check_common_patches(method, grid)
    untrained = second and not first and isinstance(method.target, Ema) and not method.symmetric
    if untrained and method.encoder.hidden != "drop":
        said, masked = unmasked(method)
        raise Mistake(
            f"{said}: only the target would see the token for hidden patches, and nothing would train it: "
            f"expected {masked}, method.t2.mask=none or method.symmetric=true"
        )


def _check_painting(method: Sentence, image: tuple[int, int], hides: bool) -> None:
    """A token that takes the place of all that was found out leaves a head for single patches nothing else."""
    encoder, measure = method.encoder, method.measure
    alone = isinstance(measure, Reconstruct) and isinstance(measure.head, Linear)
    if hides and alone and encoder.hidden == "replace" and encoder.token_is_last(image):
        raise Mistake(
            f"method.encoder.at={encoder.entry}: a token that replaces patches after the last block leaves "
            "nothing of them to be painted from, so the encoder is not trained: expected a smaller one"
        )
    by_class = isinstance(measure, Contrast) and measure.by == "class" and isinstance(encoder, ViT)
    if hides and by_class and encoder.hidden != "drop" and encoder.token_is_last(image):
        raise Mistake(
            f"method.encoder.at={encoder.entry}: the class token is made before the token for hidden patches "
            "enters, and sees the whole picture: expected a smaller one"
        )


def _check_common_patches(method: Sentence, grid: Grid) -> None:
    measure, first, second = method.measure, method.t1.mask, method.t2.mask
    by_token = isinstance(measure, Contrast) and "token" in measure.by and method.encoder.hidden == "drop"
    if not by_token or not isinstance(first, RandomMask) or not isinstance(second, RandomMask):
        return
    (patches, some), (_, others) = first.count(grid), second.count(grid)
    if some * others < patches:
        raise Mistake(
            f"method.t1.mask.ratio={first.ratio} and method.t2.mask.ratio={second.ratio}: of {patches} patches "
            f"the views show {some} and {others}, most often none in common: expected smaller ratios"
        )


@contextmanager
def _named(path: str) -> Iterator[None]:
    """Mistakes inside begin with the path of what was written."""
    try:
        yield
    except Mistake as mistake:
        raise Mistake(f"{path}{mistake}") from None
