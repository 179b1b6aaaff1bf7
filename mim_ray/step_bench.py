"""The step's part of the speed contract: R8 (cost follows FLOPs), R9 (others' MAE), and what packing gains."""

import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from mim_ray.bench import Finding, paired
from mim_ray.cost import cost
from mim_ray.methods import resolved
from mim_ray.precision import has_bf16
from mim_ray.siamese import Siamese
from mim_ray.views import Tokens, View

PICTURES = 16
FEW = (1, 4, 16)
"""Pictures of a step: with few of them calls count, with many only what is computed."""
STEPS = 1
Step = Callable[[], Tensor]
Row = dict[str, float | int | str]

COMPARED = ("rmae", "rmae_0", "cmae", "cmae_no_mask_token", "simmim", "a2mim", "mocov3")

SMALL = {"encoder": "vit-small", "data.crop.size": (128, 128), "batch": PICTURES}
"""The smallest encoder of the papers."""


def r9(pairs: int) -> Finding:
    """Our MAE step / the same step of Hugging Face's ViTMAE: ViT-S, float32."""
    return _against(_hugging_face, pairs, bf16=(False, False))


def r9_compiled(pairs: int) -> Finding:
    """With `compile=true` / Hugging Face's as it is: ViT-S, float32."""
    return _against(_hugging_face, pairs, bf16=(False, False), compiled=True)


def r9_bf16(pairs: int) -> Finding:
    """The same under bf16 autocast on both sides."""
    return _against(_hugging_face, pairs, bf16=(True, True))


def r9_lightly(pairs: int) -> Finding:
    """Our MAE step / the same step of lightly's MAE: ViT-S, float32."""
    return _against(_lightly, pairs, bf16=(False, False))


def r9_lightly_bf16(pairs: int) -> Finding:
    """The same under bf16 autocast on both sides."""
    return _against(_lightly, pairs, bf16=(True, True))


def r9_defaults(pairs: int) -> Finding:
    """Our defaults (bf16 where the hardware has it) / Hugging Face's (float32)."""
    return _against(_hugging_face, pairs, bf16=(BF16, False))


def r8() -> list[Row]:
    """For each method: the measured cost over MAE's ÷ the ratio of their FLOPs."""
    mae = _ours("mae", SMALL)
    rows: list[Row] = []
    flops = cost(resolved("mae", SMALL)).flops
    for name in COMPARED:
        step = _ours(name, SMALL)
        found = paired(f"R8 {name}", partial(_seconds, step), partial(_seconds, mae), pairs=5, unit="")
        expected = cost(resolved(name, SMALL)).flops / flops
        rows.append({
            "method": name, "FLOPs ÷ MAE's": _short(expected), "time ÷ MAE's": _short(found.ratio),
            "R8": _short(found.ratio / expected), "low": _short(found.low / expected),
            "high": _short(found.high / expected),
        })  # fmt: skip
    return rows


def packing() -> list[Row]:
    """What the packed and batched paths gain over the naive ones, forward and backward."""
    return [row for pictures in FEW for row in _packing(pictures)]


def _packing(pictures: int) -> list[Row]:
    torch.manual_seed(0)
    model = resolved("rmae", SMALL).method.build((128, 128))
    pixels = torch.randn(pictures, 3, 128, 128)
    a, b = model.views(pixels, pixels, torch.arange(pictures))
    assert a.hiding is not None
    hidden, encoder, head = a.hiding.hidden, model.online.encoder, model.measure.get_submodule("head")
    seen, other = (Tokens(t.patches.detach(), t.pooled.detach(), t.kept) for t in encoder.encode([a, b]))

    def encoded(*groups: list[View]) -> Step:
        return lambda: _sum(tokens.patches for views in groups for tokens in encoder.encode(views))

    def painted(wanted: Tensor | None, *groups: list[Tokens]) -> Step:
        return lambda: _sum(part for tokens in groups for part in head(tokens, wanted))

    rows: list[Row] = []
    for what, ours, naive in (
        ("R-MAE's two views through the encoder as one row", encoded([a, b]), encoded([a], [b])),
        ("R-MAE's two decodings in one call", painted(hidden, [seen, other]), painted(hidden, [seen], [other])),
        ("only hidden patches painted", painted(hidden, [seen]), painted(None, [seen])),
    ):
        sides = [_stepped(model, one, bf16=False) for one in (ours, naive)]
        found = paired(what, partial(_rate, sides[0]), partial(_rate, sides[1]), pairs=9, unit="")
        rows.append({
            "what": what, "pictures": pictures, "speed-up": _short(found.ratio),
            "low": _short(found.low), "high": _short(found.high),
        })  # fmt: skip
    return rows


BF16 = has_bf16(torch.device("cpu"))
RATIOS: dict[str, Callable[[int], Finding]] = {
    "R9": r9, "R9l": r9_lightly, "R9c": r9_compiled, "R9d": r9_defaults,
}  # fmt: skip
if BF16:  # where it is emulated a step takes minutes, on both sides
    RATIOS |= {"R9bf16": r9_bf16, "R9lbf16": r9_lightly_bf16}
TABLES: dict[str, Callable[[], list[Row]]] = {"R8": r8, "packing": packing}


def _against(
    theirs: Callable[[bool], Step], pairs: int, bf16: tuple[bool, bool], compiled: bool = False
) -> Finding:
    ours, other = _ours("mae", {"encoder": "vit-small"}, bf16[0], compiled), theirs(bf16[1])
    return paired("R9", lambda: _rate(ours), lambda: _rate(other), pairs=pairs, unit="images/s ÷ images/s")


def _ours(name: str, changes: dict[str, Any], bf16: bool = False, compiled: bool = False) -> Step:
    torch.manual_seed(0)
    run = resolved(name, changes)
    model = run.method.build(run.data.crop.size)
    crops = torch.randint(0, 256, (PICTURES, 3, *run.data.crop.size), dtype=torch.uint8)
    position = torch.arange(PICTURES)
    stepped = torch.compile(model, dynamic=False) if compiled else model
    return _stepped(model, lambda: stepped((crops,) * run.method.crops, position).loss, bf16, run.optim.clip)


def _hugging_face(bf16: bool) -> Step:
    from transformers import ViTMAEConfig, ViTMAEForPreTraining

    config = ViTMAEConfig(
        hidden_size=384, num_hidden_layers=12, num_attention_heads=6, intermediate_size=1536, norm_pix_loss=True
    )
    model = ViTMAEForPreTraining(config)
    pixels = torch.randn(PICTURES, 3, 224, 224)
    return _stepped(model, lambda: model(pixels).loss, bf16)


def _lightly(bf16: bool) -> Step:
    from lightly.models import utils
    from lightly.models.modules import MAEDecoderTIMM, MaskedVisionTransformerTIMM
    from timm.models.vision_transformer import vit_small_patch16_224

    encoder = MaskedVisionTransformerTIMM(vit=vit_small_patch16_224())
    tokens = encoder.sequence_length
    decoder = MAEDecoderTIMM(
        num_patches=tokens - 1, patch_size=16, embed_dim=384, decoder_embed_dim=512, decoder_depth=8,
        decoder_num_heads=16,
    )  # fmt: skip
    pixels = torch.randn(PICTURES, 3, 224, 224)

    def loss() -> Tensor:
        kept, hidden = utils.random_token_mask(size=(PICTURES, tokens), mask_ratio=0.75)
        seen = decoder.embed(encoder.encode(images=pixels, idx_keep=kept))
        masked = utils.repeat_token(decoder.mask_token, (PICTURES, tokens))
        decoded = decoder.decode(utils.set_at_index(masked, kept, seen.type_as(masked)))
        painted = decoder.predict(utils.get_at_index(decoded, hidden))
        wanted = utils.normalize_mean_var(utils.get_at_index(utils.patchify(pixels, 16), hidden - 1), dim=-1)
        return nn.functional.mse_loss(painted, wanted)

    return _stepped(nn.ModuleList([encoder, decoder]), loss, bf16)


def _stepped(model: nn.Module, loss: Step, bf16: bool, clip: float | None = None) -> Step:
    """All of a step: the average follows where there is one."""
    optimiser = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], 1e-4, fused=True)

    def step() -> Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            found = loss()
        found.backward()
        if clip is not None:
            nn.utils.clip_grad_norm_(model.parameters(), clip)
        optimiser.step()
        optimiser.zero_grad()
        if isinstance(model, Siamese):
            model.follow(0.99)
        return found

    return step


def _seconds(step: Step) -> float:
    began = time.perf_counter()
    for _ in range(STEPS):
        step()
    return time.perf_counter() - began


def _rate(step: Step) -> float:
    return PICTURES * STEPS / _seconds(step)


def _sum(parts: Iterable[Tensor]) -> Tensor:
    return torch.stack([part.square().mean() for part in parts]).sum()


def _short(number: float) -> float:
    return round(number, 3)
