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
from mim_ray.weights.names import from_others

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
    slopes = from_others(
        {name: weight.grad for name, weight in theirs.named_parameters() if weight.grad is not None}
    )
    parameters = dict(ours.named_parameters())
    assert parameters.keys() == slopes.keys()
    for name, slope in slopes.items():
        gradient = parameters[name].grad
        assert gradient is not None, name
        assert torch.allclose(gradient, slope, atol=1e-5 * max(1.0, slope.abs().max().item())), name


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
    with pytest.raises(Mistake, match="ViTMAE has one decoder"):
        save_vitmae(micro("rmae", {"method.measure.separate": True}), tmp_path / "x")


@pytest.mark.parametrize(
    ("held", "words"),
    [
        (torch.ones(3), "holds a Tensor: expected a state_dict"),
        ([torch.ones(3)], "holds a list: expected a state_dict"),
        ({"epoch": 3}, "holds 'epoch', no tensors"),
        ({"model": [torch.ones(3)]}, "holds 'model', no tensors"),
        ({}, "holds nothing, no tensors"),
    ],
)
def test_a_torch_file_without_named_tensors_is_refused(held: object, words: str, tmp_path: Path) -> None:
    torch.save(held, tmp_path / "held.pth")
    with pytest.raises(Mistake, match=words):
        read_weights(tmp_path / "held.pth")


@pytest.mark.parametrize("text", ["hello, these are my weights", "epoch 3", "", "version https://git-lfs"])
def test_a_text_that_is_named_as_a_torch_file_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "text.pth").write_text(text)
    with pytest.raises(Mistake, match=r"text\.pth is no torch file"):
        read_weights(tmp_path / "text.pth")


@pytest.mark.parametrize("begin", [b"PK\x03\x04", b"\x80\x02"])
def test_a_torn_torch_file_is_a_failure(begin: bytes, tmp_path: Path) -> None:
    (tmp_path / "torn.pth").write_bytes(begin + b"torn")
    with pytest.raises((Failure, Mistake), match=r"torn\.pth"):
        read_weights(tmp_path / "torn.pth")


def test_what_else_a_training_script_saved_is_left_alone(tmp_path: Path) -> None:
    model = micro()
    torch.save({"state_dict": model.state_dict(), "epoch": 3}, tmp_path / "run.pth")
    assert read_weights(tmp_path / "run.pth").keys() == model.state_dict().keys()
    torch.save({**model.state_dict(), "epoch": 3}, tmp_path / "pytorch_model.bin")
    assert read_weights(tmp_path).keys() == model.state_dict().keys()


def test_folders_are_made_and_what_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    save_timm(micro(), tmp_path / "a" / "b" / "encoder.safetensors")
    assert [path.name for path in (tmp_path / "a" / "b").iterdir()] == ["encoder.safetensors"]
    (tmp_path / "file").write_text("")
    with pytest.raises(Failure, match=r"cannot be written"):
        save_timm(micro(), tmp_path / "file" / "encoder.safetensors")
    with pytest.raises(Failure, match=r"cannot be written"):
        save_timm(micro(), tmp_path / "a")


def test_an_rmae_is_exported_as_the_mae_that_it_is(tmp_path: Path) -> None:
    relaxed, plain = micro("rmae", HEAD), micro("mae", HEAD)
    save_vitmae(relaxed, tmp_path)
    loaded = load_weights(plain, tmp_path)
    assert not loaded.unused
    assert all(torch.equal(weight, relaxed.state_dict()[name]) for name, weight in plain.state_dict().items())
