"""Weights in and out: parity with Hugging Face's ViTMAE, timm loads what we export, and bad files are refused."""

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import ViTMAEConfig, ViTMAEForPreTraining

from mim_ray.errors import Failure, Mistake
from mim_ray.methods import resolved
from mim_ray.views import View
from mim_ray.weights.files import load_weights, read_weights, save_timm, save_vitmae

SIZE = (32, 32)
HEAD = {"method.measure.head.width": 64, "method.measure.head.depth": 2, "method.measure.head.heads": 4}
CROPS = torch.randint(0, 256, (5, 3, *SIZE), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
POSITION = torch.arange(5)


def micro(name: str = "mae", overrides: dict[str, Any] | None = None) -> Any:
    torch.manual_seed(0)
    return resolved(name, {"encoder": "micro"} | (overrides or {})).method.build(SIZE)


def vitmae(normalise: bool) -> Any:
    torch.manual_seed(1)
    return ViTMAEForPreTraining(
        ViTMAEConfig(
            hidden_size=128, num_hidden_layers=6, num_attention_heads=4, intermediate_size=512, image_size=32,
            patch_size=4, decoder_hidden_size=64, decoder_num_hidden_layers=2, decoder_num_attention_heads=4,
            decoder_intermediate_size=256, layer_norm_eps=1e-6, norm_pix_loss=normalise,
        )
    )  # fmt: skip


def noise_of(model: Any) -> Tensor:
    """What makes ViTMAE draw the mask that we drew."""
    pixels = model.normalise(CROPS)
    hiding = model.views(pixels, pixels, POSITION)[0].hiding
    assert hiding is not None
    patches = hiding.order.shape[1]
    return torch.zeros(hiding.order.shape).scatter(1, hiding.order, torch.arange(patches).float().expand(5, -1))


@pytest.mark.parametrize("normalise", [True, False])
def test_loss_and_gradients_are_those_of_hugging_faces_vitmae(normalise: bool, tmp_path: Path) -> None:
    theirs = vitmae(normalise)
    theirs.save_pretrained(tmp_path)
    ours = micro("mae", HEAD | {"method.measure.normalise": normalise})
    loaded = load_weights(ours, tmp_path)
    assert not loaded.unused
    measured = ours((CROPS,), POSITION)
    output = theirs(ours.normalise(CROPS).contiguous(), noise=noise_of(ours))
    assert measured.loss.item() == pytest.approx(output.loss.item(), rel=1e-5)
    measured.loss.backward()
    output.loss.backward()
    ours_by_name: Any
    theirs_by_name: Any
    ours_by_name, theirs_by_name = dict(ours.named_parameters()), dict(theirs.named_parameters())
    pairs = [
        ("online.encoder.cls_token", "vit.embeddings.cls_token"),
        ("online.encoder.patch_embed.bias", "vit.embeddings.patch_embeddings.projection.bias"),
        *[(f"online.encoder.blocks.{n}.mlp.fc1.weight", f"vit.layers.{n}.mlp.fc1.weight") for n in range(6)],
        ("online.encoder.blocks.5.attn.proj.weight", "vit.layers.5.attention.o_proj.weight"),
        ("measure.head.blocks.1.norm1.weight", "decoder.decoder_layers.1.layernorm_before.weight"),
        ("measure.head.mask_token", "decoder.mask_token"),
        ("measure.head.embed.weight", "decoder.decoder_embed.weight"),
        ("measure.head.predict.weight", "decoder.decoder_pred.weight"),
    ]  # fmt: skip
    for one, other in pairs:
        a, b = ours_by_name[one].grad, theirs_by_name[other].grad
        assert torch.allclose(a, b, atol=1e-5 * max(1.0, b.abs().max().item())), one


def test_a_vitmae_that_we_export_gives_our_loss(tmp_path: Path) -> None:
    ours = micro("mae", HEAD)
    save_vitmae(ours, tmp_path)
    loading: Any = ViTMAEForPreTraining.from_pretrained(tmp_path, output_loading_info=True)
    theirs, info = loading
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    output = theirs(ours.normalise(CROPS).contiguous(), noise=noise_of(ours))
    assert output.loss.item() == pytest.approx(ours((CROPS,), POSITION).loss.item(), rel=1e-5)
    again = micro("mae", HEAD)
    torch.nn.init.zeros_(again.online.encoder.norm.weight)
    load_weights(again, tmp_path)
    assert all(
        torch.equal(a, b) for a, b in zip(again.state_dict().values(), ours.state_dict().values(), strict=True)
    )


@pytest.mark.parametrize(
    ("encoder", "size"),
    [("micro", (32, 32)), ("vit-tiny", (32, 48)), ("resnet18", (64, 64)), ("convnext_atto", (64, 64))],
)
def test_timm_loads_an_exported_encoder_strictly(encoder: str, size: tuple[int, int], tmp_path: Path) -> None:
    name = "mae" if "vit" in encoder or encoder == "micro" else "simmim_r50"
    model: Any = resolved(name, {"encoder": encoder, "data.crop.size": size}).method.build(size).eval()
    known = save_timm(model, tmp_path / "encoder.safetensors")
    theirs: Any = timm.create_model(
        known.name, checkpoint_path=tmp_path / "encoder.safetensors", **known.arguments
    ).eval()
    picture = torch.randn(2, 3, *size)
    features = theirs.forward_features(picture)
    tokens = model.online.encoder(View(picture, None))
    wanted = features[:, 1:] if features.dim() == 3 else features.flatten(2).mT
    assert torch.allclose(tokens.patches, wanted, atol=1e-5)
    again: Any = resolved(name, {"encoder": encoder, "data.crop.size": size}).method.build(size).eval()
    load_weights(again, tmp_path / "encoder.safetensors")
    assert torch.equal(again.online.encoder(View(picture, None)).patches, tokens.patches)


def test_published_mae_files_load_with_their_decoder(tmp_path: Path) -> None:
    ours = micro("mae", HEAD)
    theirs = {}
    for name, weight in ours.state_dict().items():
        if name.startswith("online.encoder."):
            theirs[name.removeprefix("online.encoder.").replace("patch_embed.", "patch_embed.proj.")] = weight
        elif name.startswith("measure.head."):
            short = name.removeprefix("measure.head.")
            renamed = {"positions": "decoder_pos_embed", "mask_token": "mask_token"}.get(short, f"decoder_{short}")
            theirs[renamed.replace("decoder_predict", "decoder_pred")] = weight
    flat = theirs["patch_embed.proj.weight"]
    theirs["patch_embed.proj.weight"] = flat.unflatten(1, (4, 4, 3)).permute(0, 3, 1, 2)
    torch.save({"model": theirs}, tmp_path / "mae.pth")
    again = micro("mae", HEAD)
    torch.nn.init.ones_(again.online.encoder.cls_token)
    loaded = load_weights(again, tmp_path / "mae.pth")
    assert loaded.head > 0
    assert not loaded.unused
    assert again((CROPS,), POSITION).loss.item() == ours((CROPS,), POSITION).loss.item()


def test_an_encoder_alone_starts_a_method_with_a_target(tmp_path: Path) -> None:
    save_timm(micro(), tmp_path / "encoder.safetensors")
    model = micro("cmae")
    torch.nn.init.ones_(model.online.encoder.cls_token)
    loaded = load_weights(model, tmp_path / "encoder.safetensors")
    assert loaded.head == 0
    assert model.target is not None
    assert torch.equal(model.target.encoder.cls_token, model.online.encoder.cls_token)


def test_positions_of_another_picture_size_are_resampled(tmp_path: Path) -> None:
    save_timm(micro(), tmp_path / "encoder.safetensors")
    larger: Any = resolved("mae", {"encoder": "micro", "data.crop.size": (48, 32)}).method.build((48, 32))
    load_weights(larger, tmp_path / "encoder.safetensors")
    assert larger.online.encoder.pos_embed.shape == (1, 97, 128)


def test_files_that_cannot_be_used_are_refused_in_words(tmp_path: Path) -> None:
    with pytest.raises(Mistake, match=r"no\.safetensors does not exist"):
        read_weights(tmp_path / "no.safetensors")
    torch.save({"model": micro(), "args": Path()}, tmp_path / "whole.pth")
    with pytest.raises(Mistake, match="convert it to safetensors"):
        read_weights(tmp_path / "whole.pth")
    (tmp_path / "torn.safetensors").write_bytes(b"torn")
    with pytest.raises(Failure, match="cannot be read"):
        read_weights(tmp_path / "torn.safetensors")
    save_timm(micro(), tmp_path / "encoder.safetensors")
    with pytest.raises(Mistake, match=r"another (size of )?model"):
        load_weights(
            resolved("mae", {"encoder": "small", "method.encoder.patch": 4, "data.crop.size": SIZE}).method.build(
                SIZE
            ),
            read_weights(tmp_path / "encoder.safetensors"),
        )
    save_file({"blocks.0.norm1.weight": torch.ones(3)}, tmp_path / "few.safetensors")
    with pytest.raises(Mistake, match="is missing"):
        load_weights(micro(), tmp_path / "few.safetensors")
    with pytest.raises(Mistake, match="timm has no such model"):
        save_timm(
            resolved("simmim_r50", {"encoder": "resnet-micro"}).method.build(SIZE), tmp_path / "x.safetensors"
        )
    with pytest.raises(Mistake, match="this is not"):
        save_vitmae(micro("simmim"), tmp_path / "x")
