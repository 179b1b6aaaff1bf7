"""What others call our weights: timm, the published MAE, and Hugging Face's ViTMAE (old names and new)."""

import re
from collections.abc import Mapping

import torch
from torch import Tensor

State = dict[str, Tensor]
ENCODER, HEAD = "online.encoder.", "measure.head."
AVERAGE = "average."
"""Before the names of a method's weights: their running average."""

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
    "vit.embeddings.mask_token": ENCODER + "mask_token",
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
HF_PATCHES = "embeddings.patch_embeddings.projection.weight"
HF_LAYERS = {"vit.encoder.layer.": ENCODER, "decoder.decoder_layers.": HEAD}
HF_SIDES = {"vit.": ENCODER, "decoder.": HEAD}
QKV = ("query", "key", "value")


def averaged(state: Mapping[str, Tensor]) -> State:
    """The average of all weights, where one was kept; else the weights."""
    kept = {name.removeprefix(AVERAGE): weight for name, weight in state.items() if name.startswith(AVERAGE)}
    return kept or dict(state)


def from_others(state: Mapping[str, Tensor]) -> State:
    """Weights under any of the known names, under ours; an unknown one stays with what it is part of."""
    state = _unwrapped(state)
    if any(name.startswith(ENCODER) for name in state):
        return state
    if f"vit.{HF_PATCHES}" in state:
        return _from_hf(state)
    if HF_PATCHES in state:  # of a ViTMAEModel or a ViTModel, which are what others have as `vit`
        return _from_hf({f"vit.{name}": weight for name, weight in state.items()})
    if "patch_embed.proj.weight" in state:
        return _from_mae(state)
    bare = "patch_embed.weight" in state or any(name.startswith("net.") for name in state)
    return {f"{ENCODER}{'' if bare else 'net.'}{name}": weight for name, weight in state.items()}


def encoder_in(state: Mapping[str, Tensor]) -> State:
    """Its weights among those of a whole method, under its own names."""
    state = averaged(state)
    return {name.removeprefix(ENCODER): weight for name, weight in state.items() if name.startswith(ENCODER)}


def is_ours(state: Mapping[str, Tensor]) -> bool:
    """Whether the names are those of our `state_dict`, of a method or of its encoder alone."""
    return any(name.startswith(ENCODER) or name == "patch_embed.weight" for name in _unwrapped(state))


def _unwrapped(state: Mapping[str, Tensor]) -> State:
    """Without what torch.compile and DDP put before the names; the average where there is one."""
    state = {name.replace("_orig_mod.", "").removeprefix("module."): weight for name, weight in state.items()}
    return averaged(state)


def to_timm(state: Mapping[str, Tensor], patch: int) -> State:
    """Our encoder's weights under timm's names."""
    ours = encoder_in(state)
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
    """(D, C, p, p) as a convolution embeds patches → (D, p · p · C) as we do; what is no convolution stays."""
    if weight.dim() != 4:
        return weight
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
            side = HEAD if name.startswith("decoder_") else ENCODER
            ours[side + name.replace("patch_embed.proj.", "patch_embed.")] = weight
    return ours


def _from_hf(state: State) -> State:
    ours: State = {}
    for name, weight in state.items():
        name = _published(name)
        if name in HF_OUTSIDE:
            image = name.endswith("projection.weight")
            ours[HF_OUTSIDE[name]] = as_matrix(weight) if image else weight
            continue
        layer = next((layer for layer in HF_LAYERS if name.startswith(layer)), None)
        if layer is None:
            side = next((side for side in HF_SIDES if name.startswith(side)), "")
            ours[HF_SIDES.get(side, "") + name.removeprefix(side)] = weight
            continue
        number, _, rest = name.removeprefix(layer).partition(".")
        part, _, kind = rest.rpartition(".")
        ours[f"{HF_LAYERS[layer]}blocks.{number}.{HF_BLOCK.get(part, part)}.{kind}"] = weight
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
    """Query, key and value as the one matrix that we have for them; apart where one of them is missing."""
    for name in [name for name in state if ".attention.attention.query." in name]:
        names = [name.replace(".query.", f".{word}.") for word in QKV]
        if all(part in state for part in names):
            joined = torch.cat([state.pop(part) for part in names])
            state[name.replace("attention.attention.query", "attn.qkv")] = joined
    return state
