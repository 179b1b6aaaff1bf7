"""Weights in and out: published MAE, timm and Hugging Face files in; files that timm and transformers load out."""

import json
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from mim_ray.encoders.cnn import CNN, OURS
from mim_ray.encoders.encoder import EncoderModule
from mim_ray.encoders.vit import SHAPES, VisionTransformer, ViT
from mim_ray.errors import Failure, Mistake
from mim_ray.measures.heads import Decoder
from mim_ray.measures.reconstruct import Reconstruct
from mim_ray.measures.relax import Relax
from mim_ray.siamese import Siamese
from mim_ray.transforms.mask import RandomMask
from mim_ray.views import Grid
from mim_ray.weights.fitting import fitted
from mim_ray.weights.names import State, from_others, is_ours, to_hf, to_timm

IN_FOLDERS = ("model.safetensors", "pytorch_model.bin")
TORCH_BEGINS = (b"PK\x03\x04", b"\x80")
"""A zip, or the pickle that torch wrote before."""

UNREADABLE = (SafetensorError, RuntimeError, EOFError, LookupError, ValueError, TypeError, AttributeError, OSError)
"""What the readers raise over bytes that are torn."""


class Loaded(NamedTuple):
    encoder: int
    """How many weights of each the file gave."""
    head: int
    others: int
    """Of the projector, the predictor, the second decoder and the running average."""
    unused: list[str]
    """Names in the file that nothing here has, or that are of a head of another kind or size."""


class Timm(NamedTuple):
    """`timm.create_model(name, checkpoint_path=…, **arguments)` loads the exported file."""

    name: str
    arguments: dict[str, Any]


def load_weights(model: Siamese, source: Path | str | Mapping[str, Any]) -> Loaded:
    """Into a built method: the encoder whole, and each other part that the file has in the same kind and size."""
    if isinstance(source, Mapping):
        state, same_picture = tensors_of(source, "the state"), False
    else:
        state, same_picture = read_weights(Path(source)), _is_for(Path(source), model.online.encoder)
    given = from_others(state)
    found = fitted(model, given, same_picture or is_ours(state))
    model.load_state_dict(model.state_dict() | found.state)
    if model.target is not None and not found.target:
        model.target.load_state_dict(model.online.state_dict())
    others = len(found.others) + len(found.target)
    return Loaded(len(found.encoder), len(found.head), others, sorted(given.keys() - found.state.keys()))


def read_weights(path: Path) -> State:
    """A safetensors file, a torch file of plain tensors, or a folder with one as Hugging Face names it."""
    if path.is_dir():
        path = next((path / name for name in IN_FOLDERS if (path / name).exists()), path / IN_FOLDERS[0])
    if not path.exists():
        raise Mistake(
            f"weights: {path} does not exist: expected a .safetensors or .pth file, or a folder with one"
        )
    safe = path.suffix == ".safetensors"
    if not safe and not _begin(path).startswith(TORCH_BEGINS):
        raise Mistake(f"weights: {path} is no torch file: expected a .safetensors or .pth file")
    try:
        if safe:
            return load_file(path)
        held = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise Mistake(
            f"weights: {path} holds more than tensors, and running it would be unsafe: convert it to safetensors"
        ) from None
    except UNREADABLE as error:
        raise Failure(f"weights: {path} cannot be read: {error}") from None
    return tensors_of(held, str(path))


def _begin(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(4)


def _is_for(path: Path, encoder: EncoderModule) -> bool:
    """Whether `save_timm` wrote the file for pictures of this size."""
    if path.suffix != ".safetensors" or not path.is_file():
        return False
    with safe_open(path, framework="pt") as file:
        notes = file.metadata() or {}
    grid = encoder.grid
    picture = {"img_size": [grid.rows * grid.patch, grid.columns * grid.patch]}
    return "name" in notes and json.dumps(picture)[1:-1] in notes.get("arguments", "")


def tensors_of(held: object, where: str) -> State:
    """The weights by name, out of the wrappings that training scripts save them in, without what else is there."""
    for wrapper in ("model", "state_dict"):
        if isinstance(held, Mapping) and isinstance(held.get(wrapper), Mapping):
            held = held[wrapper]
    if not isinstance(held, Mapping):
        raise Mistake(f"weights: {where} holds a {type(held).__name__}: expected a state_dict, tensors by name")
    state = {str(name): weight for name, weight in held.items() if isinstance(weight, Tensor)}
    if not state:
        names = ", ".join(map(repr, list(held)[:4])) or "nothing"
        raise Mistake(f"weights: {where} holds {names}, no tensors: expected a state_dict, tensors by name")
    return state


def save_timm(model: Siamese, path: Path | str) -> Timm:
    """The encoder as a file that timm loads strictly."""
    spec = model.method.encoder
    known = timm_model(spec, model.online.encoder)
    _save(to_timm(model.state_dict(), spec.patch), Path(path), known._asdict())
    return known


def timm_model(spec: ViT | CNN, encoder: EncoderModule) -> Timm:
    if isinstance(spec, CNN):
        if spec.stem == "small":
            raise Mistake("method.encoder.stem=small: timm has no such model: expected stem=standard")
        if spec.depth is not None:
            raise Mistake("method.encoder: timm has no CNN without its last stages: expected a whole one")
        name, settings = OURS.get(spec.name, (spec.name, {}))
        return Timm(name, {**settings, "in_chans": spec.channels, "num_classes": 0})
    assert isinstance(encoder, VisionTransformer)
    if spec.depth is not None or not spec.norm:
        raise Mistake("method.encoder: timm has no ViT without its last blocks or norm: expected a whole one")
    shape, grid = SHAPES[spec.size], encoder.grid
    size = "tiny" if spec.size == "micro" else spec.size
    return Timm(
        f"vit_{size}_patch{14 if size == 'huge' else 16}_224",
        {
            "embed_dim": shape.width,
            "depth": shape.depth,
            "num_heads": shape.heads,
            "img_size": (grid.rows * grid.patch, grid.columns * grid.patch),
            "patch_size": grid.patch,
            "in_chans": spec.channels,
            "num_classes": 0,
        },
    )


def save_vitmae(model: Siamese, folder: Path | str) -> None:
    """A whole MAE as a folder for `ViTMAEForPreTraining.from_pretrained`."""
    spec, measure, mask = model.method.encoder, model.method.measure, model.method.t1.mask
    alike = isinstance(spec, ViT) and spec.hidden == "drop" and model.online.encoder.grid.is_square
    if isinstance(measure, Relax) and measure.separate:
        raise Mistake("method.measure.separate=true: ViTMAE has one decoder: expected separate=false")
    if not (alike and isinstance(measure, Reconstruct | Relax) and isinstance(measure.head, Decoder)):
        raise Mistake("ViTMAE is a ViT on square pictures that drops hidden patches, with a decoder: this is not")
    assert isinstance(spec, ViT)
    decoder, grid = measure.head, model.online.encoder.grid
    config = {
        "architectures": ["ViTMAEForPreTraining"],
        "model_type": "vit_mae",
        **_hf_sizes(spec, grid),
        "decoder_hidden_size": decoder.width,
        "decoder_num_hidden_layers": decoder.depth,
        "decoder_num_attention_heads": decoder.heads,
        "decoder_intermediate_size": 4 * decoder.width,
        "mask_ratio": mask.ratio if isinstance(mask, RandomMask) else 0.0,
        "norm_pix_loss": measure.normalise,
    }
    folder = Path(folder)
    _save(to_hf(model.state_dict(), grid.patch), folder / "model.safetensors", {"format": "pt"})
    _write_config(config, folder)


def save_vit(model: Siamese, folder: Path) -> None:
    """The encoder as a folder for `ViTModel.from_pretrained(…, add_pooling_layer=False)`."""
    spec, grid = model.method.encoder, model.online.encoder.grid
    if not isinstance(spec, ViT) or not grid.is_square or spec.depth is not None or not spec.norm:
        raise Mistake("ViTModel is a whole ViT on square pictures: this is not")
    config = {"architectures": ["ViTModel"], "model_type": "vit", **_hf_sizes(spec, grid)}
    state = to_hf(model.state_dict(), grid.patch)
    encoder = {name.removeprefix("vit."): weight for name, weight in state.items() if name.startswith("vit.")}
    encoder.pop("embeddings.mask_token", None)
    _save(encoder, folder / "model.safetensors", {"format": "pt"})
    _write_config(config, folder)


def _hf_sizes(spec: ViT, grid: Grid) -> dict[str, Any]:
    shape = SHAPES[spec.size]
    return {
        "hidden_size": shape.width,
        "num_hidden_layers": shape.depth,
        "num_attention_heads": shape.heads,
        "intermediate_size": 4 * shape.width,
        "layer_norm_eps": 1e-6,
        "image_size": grid.rows * grid.patch,
        "patch_size": grid.patch,
        "num_channels": spec.channels,
    }


def _write_config(config: Mapping[str, Any], folder: Path) -> None:
    aside = folder / "config.json.part"
    aside.write_text(json.dumps(config, indent=1) + "\n")
    aside.replace(folder / "config.json")


def _save(state: State, path: Path, notes: Mapping[str, Any]) -> None:
    aside = path.with_name(path.name + ".part")
    metadata = {name: note if isinstance(note, str) else json.dumps(note) for name, note in notes.items()}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file({name: weight.contiguous() for name, weight in state.items()}, aside, metadata)
        aside.replace(path)
    except (SafetensorError, OSError) as error:
        raise Failure(f"weights: {path} cannot be written: {error}") from None
