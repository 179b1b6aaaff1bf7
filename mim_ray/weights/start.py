"""The weights that an encoder begins a run with."""

from safetensors import SafetensorError
from safetensors.torch import load

from mim_ray.encoders.vit import VisionTransformer
from mim_ray.errors import Failure, Mistake
from mim_ray.siamese import Siamese
from mim_ray.storage import Folder
from mim_ray.weights.fitting import fitted
from mim_ray.weights.names import ENCODER, from_others, is_ours


def begin_with(model: Siamese, where: str) -> None:
    """`where`: a safetensors file or its URL, under any of the names that `load_weights` knows."""
    place, _, name = where.rpartition("/")
    try:
        state = load(Folder(place or ".").read(name))
    except FileNotFoundError:
        raise Mistake(f"start={where}: no such file: expected a safetensors file") from None
    except (SafetensorError, OSError) as error:
        raise Failure(f"start={where}: cannot be read: {' '.join(str(error).split())}") from None
    given = {name: weight for name, weight in from_others(state).items() if _is_wanted(model, name)}
    model.load_state_dict(model.state_dict() | fitted(model, given, is_ours(state)).encoder)
    if model.target is not None:
        model.target.load_state_dict(model.online.state_dict())


def _is_wanted(model: Siamese, name: str) -> bool:
    """A shallower encoder leaves later blocks or stages in the file, and one without a last norm that."""
    encoder, part = model.online.encoder, name.removeprefix(ENCODER)
    if part == name:
        return False
    if not isinstance(encoder, VisionTransformer):
        return not part.startswith(encoder.later)
    if part.startswith("blocks."):
        return int(part.split(".")[1]) < len(encoder.blocks)
    return not part.startswith("norm.") or part in encoder.state_dict()
