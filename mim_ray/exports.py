"""A model in the formats of others, each loaded again and held against the model itself before it is given out."""

import shutil
import sys
import warnings
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from mim_ray import models
from mim_ray.encoders.vit import ViT
from mim_ray.errors import Failure, Mistake, nearest
from mim_ray.model_card import described
from mim_ray.models import Pretrained
from mim_ray.siamese import Siamese
from mim_ray.weights.files import save_timm, save_vit

CLOSE = 1e-4
"""Largest difference between two outputs, as a share of the largest of them."""

LARGEST_ONNX_BYTES = 1_500_000_000

Export = Callable[[Pretrained, Path], Callable[[Tensor], Tensor]]
"""Writes a folder; what comes back is the model as its own library reads it again: normalised pixels to tokens."""


def pull(where: str, form: str, to: Path, uri: str | None = None) -> dict[str, Any]:
    """The model in `to`, a new folder, whole or not at all."""
    if form not in FORMATS:
        raise Mistake(f"format={form}{nearest(form, FORMATS)}: expected one of {', '.join(FORMATS)}")
    if to.exists():
        raise Mistake(f"{to} exists: name a new folder")
    aside = to.with_name(f".{to.name}.part")
    shutil.rmtree(aside, ignore_errors=True)
    try:
        source = aside / "source"
        model = models.load(where, uri, keep=source)
        models.refuse_pickles(source)
        check_example(model, source)
        exported = FORMATS[form](model, aside / form)
        check_same(model, exported, models.example_of(model.card.run), form)
        (aside / form / models.README).write_text(described(model.card))
        (aside / form).replace(to)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return {"path": str(to), "format": form, "files": sorted(file.name for file in to.iterdir())}


def check_example(model: Pretrained, folder: Path) -> None:
    """That the model makes of the stored pictures what it made of them when it was stored."""
    if not (folder / models.EXAMPLE).exists():
        raise Failure(f"{folder}: {models.EXAMPLE} is missing: nothing proves that the model is as it was stored")
    example = load_file(folder / models.EXAMPLE)
    with torch.no_grad():
        apart = difference(model(example["pictures"]), example["features"])
    if not apart <= CLOSE:
        raise Failure(f"{folder}: the model makes other features than when it was stored ({apart:.2g} apart)")


@torch.no_grad()
def check_same(model: Pretrained, exported: Callable[[Tensor], Tensor], pictures: Tensor, form: str) -> None:
    apart = difference(exported(model.normalise(pictures)), model.forward_features(pictures))
    if not apart <= CLOSE:
        raise Failure(f"format={form}: the exported model differs from the source ({apart:.2g} apart)")


def difference(one: Tensor, other: Tensor) -> float:
    return float((one - other).abs().max() / other.abs().max().clamp(min=1e-12))


def _as_ours(_: Pretrained, folder: Path) -> Callable[[Tensor], Tensor]:
    shutil.copytree(folder.parent / "source", folder)
    again = models.load(folder)
    return lambda pixels: again.tokens(pixels)


def _as_timm(model: Pretrained, folder: Path) -> Callable[[Tensor], Tensor]:
    folder.mkdir()
    known = save_timm(_whole(model), folder / "model.safetensors")
    from mim_ray.encoders.timm_models import loaded

    net = loaded(known.name, folder / "model.safetensors", known.arguments)
    return lambda pixels: as_tokens(net.forward_features(pixels), net)


def _as_hf(model: Pretrained, folder: Path) -> Callable[[Tensor], Tensor]:
    if not isinstance(model.card.run.method.encoder, ViT):
        raise Mistake("format=hf: expected a ViT, for which Hugging Face has the same model: take format=timm")
    save_vit(_whole(model), folder)
    try:
        from transformers import ViTModel
    except ImportError:
        raise Failure("format=hf is verified by transformers: pip install 'mim_ray[peers]'") from None
    net: Any = ViTModel.from_pretrained(folder, add_pooling_layer=False)
    net.eval()
    return lambda pixels: net(pixel_values=pixels).last_hidden_state


def _as_torch_export(model: Pretrained, folder: Path) -> Callable[[Tensor], Tensor]:
    """From normalised pixels to tokens, for any number of pictures."""
    folder.mkdir()
    batch = torch.export.Dim("batch")
    program = torch.export.export(Tokens(model), (_pixels_of(model),), dynamic_shapes={"pixels": {0: batch}})
    torch.export.save(program, folder / "model.pt2")
    again: Callable[[Tensor], Tensor] = torch.export.load(folder / "model.pt2").module()
    return again


def _as_onnx(model: Pretrained, folder: Path) -> Callable[[Tensor], Tensor]:
    """The same; weights of more than ONNX's two gigabytes lie in a file beside it."""
    try:
        import onnxruntime
    except ImportError:
        raise Failure(
            "format=onnx is made and verified by its own packages: pip install 'mim_ray[onnx]'"
        ) from None
    folder.mkdir()
    path = folder / "model.onnx"
    with warnings.catch_warnings(), redirect_stdout(sys.stderr):
        warnings.simplefilter("ignore")  # of torch about its own ways
        torch.onnx.export(
            Tokens(model),
            (_pixels_of(model),),
            path,
            input_names=["pixels"],
            output_names=["tokens"],
            dynamic_shapes={"pixels": {0: "batch"}},
            external_data=sum(weight.nbytes for weight in model.parameters()) > LARGEST_ONNX_BYTES,
            verbose=False,
        )
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda pixels: torch.from_numpy(session.run(None, {"pixels": pixels.numpy()})[0])


def _pixels_of(model: Pretrained) -> Tensor:
    """Two pictures, normalised, as an exporter wants them."""
    return torch.zeros(2, model.card.run.method.encoder.channels, *model.card.run.data.crop.size)


class Tokens(nn.Module):
    """What is exported of a model."""

    def __init__(self, model: Pretrained) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixels: Tensor) -> Tensor:
        return self.model.tokens(pixels)


FORMATS: dict[str, Export] = {
    "safetensors": _as_ours,
    "timm": _as_timm,
    "hf": _as_hf,
    "torch-export": _as_torch_export,
    "onnx": _as_onnx,
}


def _whole(model: Pretrained) -> Siamese:
    """The method around it, whose encoder it is; the rest is as drawn and not exported."""
    run = model.card.run
    whole = run.method.build(run.data.crop.size)
    state = whole.online.encoder.state_dict() | model.encoder.state_dict()
    whole.online.encoder.load_state_dict(state)
    return whole.eval()


def as_tokens(features: Tensor, net: Any) -> Tensor:
    """A CNN's map as a sequence, its pooled feature first."""
    if features.dim() == 3:
        return features
    return torch.cat([net.forward_head(features, pre_logits=True)[:, None], features.flatten(2).mT], dim=1)
