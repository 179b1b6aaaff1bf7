"""What a model takes from a file: another function is refused, another head is left, positions are known."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import Tensor

from mim_ray.errors import Mistake
from mim_ray.methods import resolved
from mim_ray.views import View
from mim_ray.weights.files import load_weights, save_timm
from mim_ray.weights.names import ENCODER, HEAD


def built(name: str = "mae", size: tuple[int, int] = (32, 32), seed: int = 0, **settings: Any) -> Any:
    torch.manual_seed(seed)
    overrides = {"encoder": "micro", "data.crop.size": size} | settings
    return resolved(name, overrides).method.build(size)


def timms(**settings: Any) -> Any:
    """A ViT of timm's with the shapes of our micro one: its positions are learned."""
    torch.manual_seed(5)
    shape = {"img_size": 32, "patch_size": 4, "embed_dim": 128, "depth": 6, "num_heads": 4, "num_classes": 0}
    return timm.create_model("vit_tiny_patch16_224", **(shape | settings)).eval()


def published(model: Any) -> dict[str, Tensor]:
    """Our MAE's state under the names of the published files."""
    renamed = {"positions": "decoder_pos_embed", "mask_token": "mask_token"}
    theirs: dict[str, Tensor] = {}
    for name, weight in model.state_dict().items():
        if name.startswith(ENCODER):
            theirs[name.removeprefix(ENCODER).replace("patch_embed.", "patch_embed.proj.")] = weight
        elif name.startswith(HEAD):
            short = name.removeprefix(HEAD)
            theirs[renamed.get(short, f"decoder_{short}").replace("decoder_predict", "decoder_pred")] = weight
    matrix = theirs["patch_embed.proj.weight"]
    theirs["patch_embed.proj.weight"] = matrix.unflatten(1, (4, 4, 3)).permute(0, 3, 1, 2)
    return theirs


def features(model: Any, pictures: Tensor) -> Tensor:
    with torch.no_grad():
        return model.online.encoder(View(pictures, None)).patches  # type: ignore[no-any-return]


def same(one: Mapping[str, Tensor], other: Mapping[str, Tensor], prefix: str = "") -> bool:
    return all(torch.equal(weight, other[name]) for name, weight in one.items() if name.startswith(prefix))


# Another function is refused.


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"init_values": 1e-5}, "'blocks.0.ls1.gamma': layer scale"),
        ({"qk_norm": True}, "norms of queries and keys"),
        ({"depth": 8}, "'blocks.6.attn.proj.bias' (24 such in all): another model: expected size=micro"),
        ({"depth": 4}, "'blocks.4.attn.proj.bias' is missing (24 in all): another model: expected size=micro"),
        ({"pre_norm": True}, "a norm before the blocks"),
        ({"reg_tokens": 4}, "register tokens"),
        ({"class_token": False, "global_pool": "avg", "fc_norm": False}, "without a class token"),
        ({"no_embed_class": True}, "64 learned positions, none of them for the class token"),
        ({"global_pool": "avg"}, "averages before its last norm"),
        ({"embed_dim": 192, "depth": 12, "num_heads": 3}, "the file has size=tiny (192 wide, 12 blocks)"),
        ({"patch_size": 8}, "expected size=micro (128 wide, 6 blocks) with patch=4, and the file has size=micro"),
        ({"img_size": (32, 48)}, "97 learned positions, of a picture that is not square"),
    ],
)
def test_a_vit_that_is_another_function_is_refused_with_its_reason(settings: dict[str, Any], words: str) -> None:
    ours = built()
    before = {name: weight.clone() for name, weight in ours.state_dict().items()}
    with pytest.raises(Mistake, match=re.escape(words)):
        load_weights(ours, timms(**settings).state_dict())
    assert same(before, ours.state_dict())


def test_a_distilled_model_is_refused_with_its_reason() -> None:
    state = timms().state_dict()
    state["pos_embed"] = torch.randn(1, 66, 128)
    with pytest.raises(Mistake, match="66 learned positions, two of them for tokens"):
        load_weights(built(), state)
    with pytest.raises(Mistake, match="a distilled model, with a token for its teacher"):
        load_weights(built(), state | {"dist_token": torch.zeros(1, 1, 128)})


@pytest.mark.parametrize(("file", "into"), [("resnet34", "resnet18"), ("resnet101", "resnet50")])
def test_a_deeper_resnet_is_refused(file: str, into: str) -> None:
    ours = built("simmim_r50", (64, 64), encoder=into)
    with pytest.raises(Mistake, match=rf"the file has 'net\.layer.* another model: expected {into}"):
        load_weights(ours, timm.create_model(file).state_dict())


def test_classifiers_stay_in_the_file() -> None:
    loaded = load_weights(built(), timms(num_classes=10).state_dict())
    assert loaded.unused == [f"{ENCODER}head.bias", f"{ENCODER}head.weight"]
    theirs = timm.create_model("resnet18").state_dict()
    counts = [name for name in theirs if name.endswith("num_batches_tracked")]
    without = {name: weight for name, weight in theirs.items() if name not in counts}
    for state in (theirs, without):
        ours = built("simmim_r50", (64, 64), encoder="resnet18")
        loaded = load_weights(ours, state)
        assert loaded.unused == [f"{ENCODER}net.fc.bias", f"{ENCODER}net.fc.weight"]
        assert loaded.encoder == len(state) - 2
        assert torch.equal(ours.online.encoder.net.layer4[1].bn2.weight, theirs["layer4.1.bn2.weight"])


def test_a_mask_token_is_no_other_function() -> None:
    token = f"{ENCODER}mask_token"
    simmim = built("simmim").state_dict()
    assert load_weights(built(), simmim).unused == [f"{HEAD}predict.bias", f"{HEAD}predict.weight", token]
    late: dict[str, Any] = {"encoder": "resnet18", "method.encoder.at": 3}
    deep = built("simmim_r50", (64, 64), **late)
    assert token in load_weights(deep, built("simmim_r50", (64, 64), encoder="resnet18").state_dict()).unused


# Heads.


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("simmim", {}),
        ("a2mim", {"method.encoder.at": "none"}),
        ("cmae", {}),
        ("mae", {"method.measure.head.depth": 1}),
        ("mae", {"method.measure.head.depth": 3}),
        ("mae", {"method.measure.head.width": 64}),
    ],
)
def test_the_encoder_of_a_published_mae_loads_where_its_decoder_does_not_fit(
    name: str, settings: dict[str, Any]
) -> None:
    state, model = published(built(seed=1)), built(name, **settings)
    head = {name: weight.clone() for name, weight in model.state_dict().items() if name.startswith(HEAD)}
    loaded = load_weights(model, state)
    assert loaded.head == 0
    assert loaded.unused == sorted(name for name in built().state_dict() if name.startswith(HEAD))
    assert torch.equal(model.online.encoder.blocks[5].mlp.fc2.weight, state["blocks.5.mlp.fc2.weight"])
    assert same(head, model.state_dict())


def test_published_mae_files_load_with_their_decoder(tmp_path: Path) -> None:
    ours, again = built(), built(seed=1)
    torch.save({"model": published(ours)}, tmp_path / "mae.pth")
    loaded = load_weights(again, tmp_path / "mae.pth")
    assert loaded.head > 0
    assert not loaded.unused
    assert same(ours.state_dict(), again.state_dict())


def test_a_published_mae_of_another_picture_size_keeps_the_positions_of_this_one() -> None:
    model, larger = built(seed=1), built(size=(48, 32))
    positions = larger.online.encoder.pos_embed.clone(), larger.measure.head.positions.clone()
    loaded = load_weights(larger, published(model))
    assert not loaded.unused
    assert loaded.head > 0
    assert torch.equal(larger.online.encoder.pos_embed, positions[0])
    assert torch.equal(larger.measure.head.positions, positions[1])
    assert torch.equal(larger.measure.head.predict.weight, model.measure.head.predict.weight)


# Positions.


@pytest.mark.parametrize("kind", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("source", [(16, 64), (48, 32), (64, 64)])
def test_fixed_positions_are_those_of_the_picture_that_is_built(
    source: tuple[int, int], kind: torch.dtype, tmp_path: Path
) -> None:
    wide, square = built(size=source, seed=1), built()
    table = square.online.encoder.pos_embed.clone()
    save_timm(wide.to(kind), tmp_path / "encoder.safetensors")
    load_weights(square, tmp_path / "encoder.safetensors")
    assert torch.equal(square.online.encoder.pos_embed, table)
    assert torch.equal(square.online.encoder.cls_token, wide.online.encoder.cls_token.float())


def test_learned_positions_load_as_they_are() -> None:
    theirs, ours = timms(), built("cmae")
    load_weights(ours, theirs.state_dict())
    assert torch.equal(ours.online.encoder.pos_embed, theirs.pos_embed)
    assert torch.equal(ours.target.encoder.pos_embed, theirs.pos_embed)
    picture = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.allclose(features(ours, picture), theirs.forward_features(picture)[:, 1:], atol=1e-5)


def test_fixed_positions_come_back_after_learned_ones() -> None:
    fixed, model = built("cmae", seed=1), built("cmae")
    load_weights(model, timms().state_dict())
    load_weights(model, fixed.state_dict())
    assert same(fixed.state_dict(), model.state_dict())


@pytest.mark.parametrize("size", [(48, 32), (16, 64), (64, 64)])
def test_learned_positions_are_resampled_from_a_square(size: tuple[int, int]) -> None:
    theirs, ours = timms(), built(size=size)
    load_weights(ours, theirs.state_dict())
    theirs.set_input_size(size)
    assert torch.allclose(ours.online.encoder.pos_embed, theirs.pos_embed, atol=1e-6)


@pytest.mark.parametrize("size", [(48, 32), (16, 64)])
def test_learned_positions_in_a_file_of_ours_are_those_of_the_same_picture(
    size: tuple[int, int], tmp_path: Path
) -> None:
    started = built(size=size)
    load_weights(started, timms().state_dict())
    save_timm(started, tmp_path / "encoder.safetensors")
    for source in (started.state_dict(), tmp_path / "encoder.safetensors"):
        again = built(size=size, seed=1)
        load_weights(again, source)
        assert torch.equal(again.online.encoder.pos_embed, started.online.encoder.pos_embed)
