"""Which weights of a file a model takes: the encoder whole or not at all, each other part where it is the same."""

import math
import re
from collections.abc import Mapping, Set
from typing import NamedTuple

from torch import Tensor

from mim_ray.blocks import is_sincos, sincos
from mim_ray.encoders.cnn import CNN
from mim_ray.encoders.vit import SHAPES, VisionTransformer, ViT
from mim_ray.errors import Mistake
from mim_ray.siamese import Siamese
from mim_ray.weights.names import ENCODER, HEAD, State

OTHERS = ("measure.second.", "measure.predictor.", "online.projection.")
TARGET = "target."
POSITIONS = ("positions", "pos_embed")
OPTIONAL = ("mask_token", "num_batches_tracked")
"""What makes no other function of a picture that is seen whole."""

CLASSIFIERS = ("head.", "fc.", "fc_norm.", "classifier.", "pooler.")
"""What comes after the encoder in files of others; a file may hold it, and it stays there."""

FEATURES = (
    (r"\.ls[12]\.|\.gamma_[12]|\.layer_scale", "layer scale"),
    (r"\.[qk]_norm\.", "norms of queries and keys"),
    (r"(^|\.)dist(illation)?_token", "a distilled model, with a token for its teacher"),
    (r"(^|\.)reg(ister)?_tokens?", "register tokens"),
    (r"^norm_pre\.", "a norm before the blocks"),
    (r"\.attention\.(query|key|value)\.", "a query, key or value whose others are missing"),
)


class Fitted(NamedTuple):
    encoder: State
    head: State
    others: State
    """Of the second decoder, the predictor and the projector."""
    target: State
    """Empty: the running average begins as a copy."""

    @property
    def state(self) -> State:
        return self.encoder | self.head | self.others | self.target


def fitted(model: Siamese, given: Mapping[str, Tensor], ours: bool) -> Fitted:
    """`given` under our names; `ours`: this house wrote it, and as many positions are the same positions."""
    others: State = {}
    for part in OTHERS:
        others |= _same(part, model, given)
    return Fitted(_encoder(model, given, ours), _same(HEAD, model, given), others, _same(TARGET, model, given))


def _same(part: str, model: Siamese, given: Mapping[str, Tensor]) -> State:
    """A part's weights where the file has the part in this kind and size, and nothing otherwise."""
    wanted, cells = model.state_dict(), model.online.encoder.cells
    mine, theirs = _of(part, wanted.keys()), _of(part, given.keys())
    if not theirs or any(not name.endswith(OPTIONAL) for name in mine ^ theirs):
        return {}
    found = {}
    for name in mine & theirs:
        fixed = name.endswith(POSITIONS) and is_sincos(given[name])
        found[name] = sincos(given[name].shape[2], cells)[None] if fixed else given[name]
        if found[name].shape != wanted[name].shape:
            return {}
    return found


def _encoder(model: Siamese, given: Mapping[str, Tensor], ours: bool) -> State:
    encoder, wanted = model.online.encoder, model.state_dict()
    mine, theirs = _of(ENCODER, wanted.keys()), _of(ENCODER, given.keys())
    expected = _expected(model.method.encoder, given)
    _refuse_other_functions(mine, theirs, expected)
    found = {name: given[name] for name in mine & theirs}
    positions = ENCODER + "pos_embed"
    for name in sorted(found, key=lambda name: (name == positions, name)):
        weight, alike = found[name], found[name].shape == wanted[name].shape
        if isinstance(encoder, VisionTransformer) and name == positions and weight.shape[2:] == (encoder.width,):
            if not (ours and alike) or is_sincos(weight):
                found[name] = _resampled(encoder, weight)
        elif not alike and name.endswith("mask_token"):
            del found[name]
        elif not alike:
            raise Mistake(
                f"weights: {name.removeprefix(ENCODER)!r} is {_sizes(weight)}: another size of model: "
                f"expected {_sizes(wanted[name])}: {expected}"
            )
    return found


def _resampled(encoder: VisionTransformer, positions: Tensor) -> Tensor:
    try:
        return encoder.resampled(positions)
    except Mistake as mistake:
        raise Mistake(f"weights: {mistake}") from None


def _refuse_other_functions(mine: Set[str], theirs: Set[str], expected: str) -> None:
    """A file with more than the encoder, or with less, is a file of another function, however much of it fits."""
    missing = sorted(name.removeprefix(ENCODER) for name in mine - theirs if not name.endswith(OPTIONAL))
    more = sorted(name.removeprefix(ENCODER) for name in theirs - mine if not name.endswith(OPTIONAL))
    unknown = [name for name in more if not name.removeprefix("net.").startswith(CLASSIFIERS)]
    for pattern, feature in FEATURES:
        named = [name for name in unknown if re.search(pattern, name)]
        if named:
            raise Mistake(f"weights: the file has {named[0]!r}: {feature}: expected a file without")
    if "norm.weight" in missing and "fc_norm.weight" in more:
        raise Mistake(
            "weights: 'norm.weight' is missing and the file has 'fc_norm.weight': a classifier that averages "
            "before its last norm (a fine-tuned MAE, timm's global_pool=avg): expected the file before fine-tuning"
        )
    if "cls_token" in missing and "patch_embed.weight" not in missing:
        raise Mistake("weights: 'cls_token' is missing: a ViT without a class token: expected one with it")
    if missing:
        count = f"{len(missing)} in all"
        raise Mistake(f"weights: {missing[0]!r} is missing ({count}): another model: {expected}")
    if unknown:
        count = f"{len(unknown)} such in all"
        raise Mistake(f"weights: the file has {unknown[0]!r} ({count}): another model: {expected}")


def _expected(spec: ViT | CNN, given: Mapping[str, Tensor]) -> str:
    """What is wanted, and what the file is, as far as its weights tell."""
    if isinstance(spec, CNN):
        return f"expected {spec.name}"
    wanted = f"expected {_named(*SHAPES[spec.size][:2])} with patch={spec.patch}"
    if not {ENCODER + "cls_token", ENCODER + "patch_embed.weight"} <= given.keys():
        return wanted
    width, pixels = (given[ENCODER + name].shape[-1] for name in ("cls_token", "patch_embed.weight"))
    blocks = (re.match(r"blocks\.(\d+)\.", name.removeprefix(ENCODER)) for name in given)
    depth = 1 + max((int(block[1]) for block in blocks if block), default=-1)
    side = math.isqrt(pixels // spec.channels)
    patch = f"patch={side}" if side * side * spec.channels == pixels else f"{pixels} numbers in a patch"
    return f"{wanted}, and the file has {_named(width, depth)} with {patch}"


def _named(width: int, depth: int) -> str:
    names = (f"size={size}" for size, shape in SHAPES.items() if shape[:2] == (width, depth))
    return f"{next(names, 'no size of ours')} ({width} wide, {depth} blocks)"


def _sizes(weight: Tensor) -> str:
    return " × ".join(map(str, weight.shape))


def _of(part: str, names: Set[str]) -> Set[str]:
    return {name for name in names if name.startswith(part)}
