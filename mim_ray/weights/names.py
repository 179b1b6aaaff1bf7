"""What others call our weights: timm, the published MAE, and Hugging Face's ViTMAE (old names and new)."""

import re
from collections.abc import Mapping

import torch
from torch import Tensor

State = dict[str, Tensor]
ENCODER, HEAD = "online.encoder.", "measure.head."

MAE_DECODER = {
    "decoder_embed.": "embed.",
    "decoder_blocks.": "blocks.",
    "decoder_norm.": "norm.",
    "decoder_pred.": "predict.",
    "decoder_pos_embed": "positions",
    "mask_token": "mask_token",
}
HF_BLOCK = {
    "layernorm_before": "norm1",
    "layernorm_after": "norm2",
    "intermediate.dense": "mlp.fc1",
    "output.dense": "mlp.fc2",
    "attention.output.dense": "attn.proj",
}
HF_OUTSIDE = {
    "vit.embeddings.cls_token": ENCODER + "cls_token",
    "vit.embeddings.position_embeddings": ENCODER + "pos_embed",
    "vit.embeddings.patch_embeddings.projection.weight": ENCODER + "patch_embed.weight",
    "vit.embeddings.patch_embeddings.projection.bias": ENCODER + "patch_embed.bias",
    "vit.layernorm.weight": ENCODER + "norm.weight",
    "vit.layernorm.bias": ENCODER + "norm.bias",
    "decoder.mask_token": HEAD + "mask_token",
    "decoder.decoder_pos_embed": HEAD + "positions",
    "decoder.decoder_embed.weight": HEAD + "embed.weight",
    "decoder.decoder_embed.bias": HEAD + "embed.bias",
    "decoder.decoder_norm.weight": HEAD + "norm.weight",
    "decoder.decoder_norm.bias": HEAD + "norm.bias",
    "decoder.decoder_pred.weight": HEAD + "predict.weight",
    "decoder.decoder_pred.bias": HEAD + "predict.bias",
}
HF_LAYERS = {"vit.encoder.layer.": ENCODER, "decoder.decoder_layers.": HEAD}
QKV = ("query", "key", "value")


def from_others(state: Mapping[str, Tensor]) -> State:
    """Weights under any of the known names, under ours."""
    state = {name.removeprefix("module."): weight for name, weight in state.items()}
    if any(name.startswith("vit.") for name in state):
        return _from_hf(state)
    if "patch_embed.proj.weight" in state:
        return _from_mae(state)
    if any(name.startswith(ENCODER) for name in state):
        return state
    return {f"{ENCODER}net.{name}": weight for name, weight in state.items()}


def to_timm(state: Mapping[str, Tensor], patch: int) -> State:
    """Our encoder's weights under timm's names."""
    ours = {name.removeprefix(ENCODER): weight for name, weight in state.items() if name.startswith(ENCODER)}
    ours.pop("mask_token", None)
    if "patch_embed.weight" not in ours:
        return {name.removeprefix("net."): weight for name, weight in ours.items()}
    ours["patch_embed.proj.weight"] = as_convolution(ours.pop("patch_embed.weight"), patch)
    ours["patch_embed.proj.bias"] = ours.pop("patch_embed.bias")
    return ours


def to_hf(state: Mapping[str, Tensor], patch: int) -> State:
    """Our MAE's weights under the names that ViTMAE was published with."""
    outside = {ours: theirs for theirs, ours in HF_OUTSIDE.items()}
    inside = {ours: theirs for theirs, ours in HF_BLOCK.items()}
    theirs: State = {}
    for name, weight in state.items():
        if name in outside:
            image = name == ENCODER + "patch_embed.weight"
            theirs[outside[name]] = as_convolution(weight, patch) if image else weight
            continue
        found = re.fullmatch(r"(.*\.)blocks\.(\d+)\.(.*)\.(weight|bias)", name)
        if not found:
            continue
        side, number, part, kind = found.groups()
        layer = next(layer for layer, ours in HF_LAYERS.items() if ours == side) + number
        if part == "attn.qkv":
            for word, third in zip(QKV, weight.chunk(3), strict=True):
                theirs[f"{layer}.attention.attention.{word}.{kind}"] = third.clone()
        else:
            theirs[f"{layer}.{inside[part]}.{kind}"] = weight
    return theirs


def as_convolution(weight: Tensor, patch: int) -> Tensor:
    """(D, p · p · C) as we embed patches → (D, C, p, p) as a convolution does."""
    squares: Tensor = weight.unflatten(1, (patch, patch, -1))
    return squares.permute(0, 3, 1, 2).contiguous()


def as_matrix(weight: Tensor) -> Tensor:
    return weight.permute(0, 2, 3, 1).flatten(1)


def _from_mae(state: State) -> State:
    ours: State = {}
    for name, weight in state.items():
        decoder = next((theirs for theirs in MAE_DECODER if name.startswith(theirs)), None)
        if decoder is not None:
            ours[HEAD + MAE_DECODER[decoder] + name.removeprefix(decoder)] = weight
        elif name == "patch_embed.proj.weight":
            ours[ENCODER + "patch_embed.weight"] = as_matrix(weight)
        else:
            ours[ENCODER + name.replace("patch_embed.proj.", "patch_embed.")] = weight
    return ours


def _from_hf(state: State) -> State:
    ours: State = {}
    for name, weight in state.items():
        name = _published(name)
        if name in HF_OUTSIDE:
            image = name.endswith("projection.weight")
            ours[HF_OUTSIDE[name]] = as_matrix(weight) if image else weight
            continue
        side = next((layer for layer in HF_LAYERS if name.startswith(layer)), None)
        if side is None:
            ours[name] = weight
            continue
        number, _, rest = name.removeprefix(side).partition(".")
        part, _, kind = rest.rpartition(".")
        block = f"{HF_LAYERS[side]}blocks.{number}."
        if part.removeprefix("attention.attention.") in QKV:
            ours[f"{block}{part}.{kind}"] = weight
        else:
            ours[f"{block}{HF_BLOCK[part]}.{kind}"] = weight
    return _joined(ours)


def _published(name: str) -> str:
    """Today's names of transformers as those of the published files."""
    name = name.replace("vit.layers.", "vit.encoder.layer.").replace(
        "decoder.decoder_encoder.layer.", "decoder.decoder_layers."
    )
    for today, then in (("q_proj", "query"), ("k_proj", "key"), ("v_proj", "value")):
        name = name.replace(f".attention.{today}.", f".attention.attention.{then}.")
    name = name.replace(".attention.o_proj.", ".attention.output.dense.")
    return name.replace(".mlp.fc1.", ".intermediate.dense.").replace(".mlp.fc2.", ".output.dense.")


def _joined(state: State) -> State:
    """Query, key and value as the one matrix that we have for them."""
    for name in [name for name in state if ".attention.attention.query." in name]:
        parts = [state.pop(name.replace(".query.", f".{word}.")) for word in QKV]
        state[name.replace("attention.attention.query", "attn.qkv")] = torch.cat(parts)
    return state
