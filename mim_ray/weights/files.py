"""Weights in and out: published MAE, timm and Hugging Face files in; files that timm and transformers load out."""

import json
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from mim_ray.encoders.cnn import CNN, OURS
from mim_ray.encoders.encoder import EncoderModule
from mim_ray.encoders.vit import SHAPES, VisionTransformer, ViT
from mim_ray.errors import Failure, Mistake
from mim_ray.measures.heads import Decoder
from mim_ray.measures.reconstruct import Reconstruct
from mim_ray.siamese import Siamese
from mim_ray.transforms.mask import RandomMask
from mim_ray.weights.names import ENCODER, HEAD, State, from_others, to_hf, to_timm


class Loaded(NamedTuple):
    encoder: int
    """How many weights of each were loaded."""
    head: int
    unused: list[str]
    """Names in the file that nothing here has."""


class Timm(NamedTuple):
    """`timm.create_model(name, checkpoint_path=…, **arguments)` loads the exported file."""

    name: str
    arguments: dict[str, Any]


def load_weights(model: Siamese, source: Path | str | Mapping[str, Tensor]) -> Loaded:
    """Into a built method: the encoder whole, and the head where the file has one."""
    given = from_others(source if isinstance(source, Mapping) else read_weights(Path(source)))
    wanted, encoder = model.state_dict(), model.online.encoder
    sides = {}
    for side in (ENCODER, HEAD):
        names = [name for name in wanted if name.startswith(side)]
        there = [name for name in names if name in given]
        missing = [name for name in names if name not in given and not name.endswith("mask_token")]
        if missing and (side == ENCODER or there):
            raise Mistake(
                f"weights: {missing[0].removeprefix(side)!r} is missing ({len(missing)} in all): another model"
            )
        sides[side] = there
    found: State = {}
    for name in [*sides[ENCODER], *sides[HEAD]]:
        weight = given[name]
        if name == ENCODER + "pos_embed" and isinstance(encoder, VisionTransformer):
            weight = encoder.resampled(weight)
        if weight.shape != wanted[name].shape:
            sizes = " × ".join(map(str, weight.shape)), " × ".join(map(str, wanted[name].shape))
            raise Mistake(f"weights: {name!r} is {sizes[0]}: expected {sizes[1]}: another size of model")
        found[name] = weight
    model.load_state_dict(wanted | found)
    if model.target is not None:
        model.target.load_state_dict(model.online.state_dict())
    return Loaded(len(sides[ENCODER]), len(sides[HEAD]), sorted(given.keys() - found.keys()))


def read_weights(path: Path) -> State:
    """A safetensors file, a folder that holds model.safetensors, or a torch file of plain tensors."""
    if path.is_dir():
        path = path / "model.safetensors"
    if not path.exists():
        raise Mistake(
            f"weights: {path} does not exist: expected a .safetensors or .pth file, or a folder with one"
        )
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise Mistake(
            f"weights: {path} holds more than tensors, and running it would be unsafe: convert it to safetensors"
        ) from None
    except (SafetensorError, RuntimeError, EOFError) as error:
        raise Failure(f"weights: {path} cannot be read: {error}") from None
    for wrapper in ("model", "state_dict"):
        state = state.get(wrapper, state)
    return dict(state)


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
        name, settings = OURS.get(spec.name, (spec.name, {}))
        return Timm(name, {**settings, "in_chans": spec.channels, "num_classes": 0})
    assert isinstance(encoder, VisionTransformer)
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
    if not (alike and isinstance(measure, Reconstruct) and isinstance(measure.head, Decoder)):
        raise Mistake("ViTMAE is a ViT on square pictures that drops hidden patches, with a decoder: this is not")
    assert isinstance(spec, ViT)
    shape, grid, decoder = SHAPES[spec.size], model.online.encoder.grid, measure.head
    config = {
        "architectures": ["ViTMAEForPreTraining"],
        "model_type": "vit_mae",
        "hidden_size": shape.width,
        "num_hidden_layers": shape.depth,
        "num_attention_heads": shape.heads,
        "intermediate_size": 4 * shape.width,
        "layer_norm_eps": 1e-6,
        "image_size": grid.rows * grid.patch,
        "patch_size": grid.patch,
        "num_channels": spec.channels,
        "decoder_hidden_size": decoder.width,
        "decoder_num_hidden_layers": decoder.depth,
        "decoder_num_attention_heads": decoder.heads,
        "decoder_intermediate_size": 4 * decoder.width,
        "mask_ratio": mask.ratio if isinstance(mask, RandomMask) else 0.0,
        "norm_pix_loss": measure.normalise,
    }
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    _save(to_hf(model.state_dict(), grid.patch), folder / "model.safetensors", {"format": "pt"})
    aside = folder / "config.json.part"
    aside.write_text(json.dumps(config, indent=1) + "\n")
    aside.replace(folder / "config.json")


def _save(state: State, path: Path, notes: Mapping[str, Any]) -> None:
    aside = path.with_name(path.name + ".part")
    metadata = {name: note if isinstance(note, str) else json.dumps(note) for name, note in notes.items()}
    save_file({name: weight.contiguous() for name, weight in state.items()}, aside, metadata)
    aside.replace(path)
