"""What the short word `encoder=` stands for: a size of ViT or a backbone, and what must change with it."""

from typing import Any

from mim_ray.encoders.cnn import CNN, OURS
from mim_ray.encoders.target import Ema, Twin
from mim_ray.encoders.vit import SHAPES
from mim_ray.errors import Mistake, nearest
from mim_ray.measures.contrast import Contrast
from mim_ray.measures.heads import Decoder
from mim_ray.measures.reconstruct import Reconstruct
from mim_ray.measures.relax import Relax
from mim_ray.run import Run
from mim_ray.transforms.mask import RandomMask

WORDS = [*SHAPES, *(f"vit-{size}" for size in SHAPES), *OURS, "resnet18", "resnet50", "resnet101", "convnext_tiny"]


def encoder_overrides(word: str, run: Run) -> dict[str, Any]:
    """How hidden patches are marked stays as it is where it can; micro encoders come with 32-pixel pictures."""
    size = word.removeprefix("vit-")
    if size in SHAPES:
        block = {"micro": 8, "huge": 28}.get(size, 32)
        return _vit(size) | _place(run) | _blocks(run, block) | _small_pictures(run, size == "micro")
    if word.startswith(("vit_", "deit")):
        sizes = [f"vit-{known}" for known in SHAPES]
        raise Mistake(f"encoder={word}: a ViT is chosen by its size{nearest(word.partition('_patch')[0], sizes)}")
    try:
        CNN(name=word)
    except ValueError:
        raise Mistake(f"encoder={word}: no such encoder{nearest(word, WORDS)}") from None
    return (
        _cnn(word, run)
        | _place(run)
        | _filled(run)
        | _blocks(run, 8 if word in OURS else 32)
        | _small_pictures(run, word in OURS)
    )


def _vit(size: str) -> dict[str, Any]:
    patch = {"micro": 4, "huge": 14}.get(size, 16)
    return {"method.encoder": "vit", "method.encoder.size": size, "method.encoder.patch": patch}


def _cnn(name: str, run: Run) -> dict[str, Any]:
    small = name in OURS
    return {
        "method.encoder": "cnn",
        "method.encoder.name": name,
        "method.encoder.stem": "small" if small else "standard",
        "method.encoder.patch": 8 if small else 32,
        "method.encoder.hidden": "replace" if run.method.encoder.hidden == "drop" else run.method.encoder.hidden,
    }


def _place(run: Run) -> dict[str, Any]:
    """Where the token enters is the new encoder's own default, except that what enters first still does."""
    return {} if run.method.encoder.at == 0 else {"method.encoder.at": "none"}


def _filled(run: Run) -> dict[str, Any]:
    """A stem mixes neighbours before any token enters, so what is hidden must not be in the pixels."""
    encoded = [("t1", run.method.t1)]
    if isinstance(run.method.target, Twin | Ema):
        encoded.append(("t2", run.method.t2))
    return {f"method.{name}.fill": "mean" for name, view in encoded if view.mask and view.fill == "none"}


def _blocks(run: Run, side: int) -> dict[str, Any]:
    """Blocks of patches stay blocks: near 32 pixels, or a quarter of a small picture."""
    views = (("t1", run.method.t1), ("t2", run.method.t2))
    blocked = (name for name, view in views if isinstance(view.mask, RandomMask) and view.mask.block)
    return {f"method.{name}.mask.block": side for name in blocked}


def _small_pictures(run: Run, small: bool) -> dict[str, Any]:
    if not small:
        return {}
    changes: dict[str, Any] = {"data.crop.size": (32, 32)}
    measure = run.method.measure
    if isinstance(measure, Reconstruct | Relax) and isinstance(measure.head, Decoder):
        changes |= {
            f"method.measure.head.{field}": to for field, to in (("width", 128), ("depth", 2), ("heads", 4))
        }
    if isinstance(measure, Contrast):
        for head in ("projector", "predictor") if measure.predictor else ("projector",):
            changes |= {f"method.measure.{head}.hidden": 512, f"method.measure.{head}.out": 128}
    return changes
