"""timm's models by their names: what we can build of them, and their published weights.

timm is imported when it is first needed, for that takes a second and a half.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from mim_ray.encoders.cnn import CNN
from mim_ray.encoders.encoder import Encoder
from mim_ray.encoders.vit import SHAPES, ViT
from mim_ray.errors import Failure, Mistake

OUR_VIT = re.compile(rf"vit_({'|'.join(SHAPES)})_patch(\d+)_(\d+)")


def encoder_of(name: str) -> tuple[Encoder, int | None] | None:
    """The encoder and the side of its pictures, where its name says one; None: timm knows no such model."""
    import timm

    plain, _, weights = name.partition(".")
    if not timm.is_model(plain) or (weights and not timm.is_model_pretrained(name)):
        return None
    if found := OUR_VIT.fullmatch(plain):
        size, patch, side = found.groups()
        return ViT.model_validate({"size": size, "patch": int(patch)}), int(side)
    if plain.startswith(("vit", "deit")):
        raise Mistake(f"{name}: expected a ViT as vit_small_patch16_224, with a class token and nothing added")
    return CNN(name=plain), None


def colours_of(name: str) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    """Mean and deviation that its published weights are for, where timm has some."""
    import timm

    known = timm.get_pretrained_cfg(name)
    return None if known is None else (tuple(known.mean), tuple(known.std))


def published_weights(name: str) -> dict[str, Tensor]:
    """As timm fetches them."""
    import timm

    try:
        model: Any = timm.create_model(name, pretrained=True)
    except Exception as error:  # of any of the ways in which a download fails
        reason = " ".join(str(error).split())[:200]
        raise Failure(f"{name}: timm could not fetch its weights ({reason}): name a file, weights=") from None
    return dict(model.state_dict())


def loaded(name: str, file: Path, arguments: Mapping[str, Any]) -> Any:
    """A model of timm's from a file."""
    import timm

    return timm.create_model(name, checkpoint_path=str(file), **arguments).eval()
