"""Other names of the same weights: Hugging Face's encoders alone, wrappers, and whole states of our own."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import ViTConfig, ViTMAEConfig, ViTMAEModel, ViTModel

from mim_ray.errors import Mistake
from mim_ray.methods import resolved
from mim_ray.views import View
from mim_ray.weights.files import load_weights

SMALL_HF: dict[str, Any] = {
    "hidden_size": 128, "num_hidden_layers": 6, "num_attention_heads": 4, "intermediate_size": 512,
    "image_size": 32, "patch_size": 4, "layer_norm_eps": 1e-6,
}  # fmt: skip


def built(name: str = "mae", size: tuple[int, int] = (32, 32), seed: int = 0, **settings: Any) -> Any:
    torch.manual_seed(seed)
    overrides = {"encoder": "micro", "data.crop.size": size} | settings
    return resolved(name, overrides).method.build(size)


def features(model: Any, pictures: Tensor) -> Tensor:
    with torch.no_grad():
        return model.online.encoder(View(pictures, None)).patches  # type: ignore[no-any-return]


def same(one: Mapping[str, Tensor], other: Mapping[str, Tensor], prefix: str = "") -> bool:
    return all(torch.equal(weight, other[name]) for name, weight in one.items() if name.startswith(prefix))


@pytest.mark.parametrize("kind", ["ViTMAEModel", "ViTModel"])
def test_an_encoder_alone_of_hugging_faces_loads(kind: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    theirs: Any = ViTModel(ViTConfig(**SMALL_HF))
    if kind == "ViTMAEModel":
        theirs = ViTMAEModel(ViTMAEConfig(**SMALL_HF, mask_ratio=0.0))
    theirs.eval()
    theirs.save_pretrained(tmp_path)
    ours = built()
    loaded = load_weights(ours, tmp_path)
    assert all("pooler" in name for name in loaded.unused)
    picture = torch.randn(2, 3, 32, 32)
    order = {"noise": torch.arange(64.0).expand(2, -1)} if kind == "ViTMAEModel" else {}
    with torch.no_grad():
        wanted = theirs(picture, **order).last_hidden_state[:, 1:]
    assert torch.allclose(features(ours, picture), wanted, atol=1e-5)
    assert load_weights(built(), theirs.state_dict()) == loaded


def test_odd_names_in_a_block_of_hugging_faces_are_refused() -> None:
    theirs = ViTModel(ViTConfig(**SMALL_HF)).state_dict()
    block = next(name for name in theirs if "0." in name and "k_proj.weight" in name)
    with pytest.raises(Mistake, match=r"a query, key or value whose others are missing"):
        load_weights(built(), {name: weight for name, weight in theirs.items() if name != block})
    odd = block.replace("attention.k_proj.weight", "layer_scale1.lambda1")
    with pytest.raises(Mistake, match=r"'blocks\.0\.layer_scale1\.lambda1': layer scale"):
        load_weights(built(), theirs | {odd: torch.ones(128)})
    odd = block.replace("attention.k_proj.weight", "strange.thing")
    with pytest.raises(Mistake, match=r"the file has 'blocks\.0\.strange\.thing' \(1 such in all\)"):
        load_weights(built(), theirs | {odd: torch.ones(128)})


def test_a_picture_embedding_that_is_no_convolution_of_pictures_is_refused() -> None:
    theirs = ViTModel(ViTConfig(**SMALL_HF)).state_dict()
    with pytest.raises(Mistake, match=r"'patch_embed\.weight' is 128 × 3 × 2 × 4 × 4: another size of model"):
        load_weights(
            built(), theirs | {"embeddings.patch_embeddings.projection.weight": torch.ones(128, 3, 2, 4, 4)}
        )


@pytest.mark.parametrize("wrap", ["_orig_mod.{}", "module.{}", "module._orig_mod.{}", "online._orig_mod.{}"])
def test_what_wrappers_put_before_names_is_taken_off(wrap: str) -> None:
    state = built(seed=1).state_dict()
    wrapped = {
        name.replace("online.", wrap.format("")) if wrap.startswith("online") else wrap.format(name): weight
        for name, weight in state.items()
    }
    model = built()
    assert not load_weights(model, wrapped).unused
    assert same(state, model.state_dict())


@pytest.mark.parametrize("encoder", ["micro", "resnet18"])
def test_the_state_of_an_encoder_alone_loads(encoder: str) -> None:
    name, size = ("simmim", (32, 32)) if encoder == "micro" else ("simmim_r50", (64, 64))
    one, other = (built(name, size, seed=seed, encoder=encoder) for seed in (1, 2))
    loaded = load_weights(other, one.online.encoder.state_dict())
    assert loaded.encoder == len(one.online.encoder.state_dict())
    assert not loaded.unused
    assert same(one.online.encoder.state_dict(), other.online.encoder.state_dict())


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("mae", {}),
        ("rmae", {"method.measure.separate": True}),
        ("cmae", {}),
        ("byol", {}),
        ("mocov3_r50", {"encoder": "resnet-micro"}),
        ("a2mim_r50", {"encoder": "resnet-micro"}),
        ("supervised", {}),
    ],
)
def test_a_state_of_the_same_method_loads_completely(name: str, settings: dict[str, Any], tmp_path: Path) -> None:
    one, other = (built(name, seed=seed, **settings) for seed in (1, 2))
    for weight in one.parameters():
        weight.data.add_(0.1 * torch.randn_like(weight))  # so that an average is not what it averages
    save_file({name: weight.clone() for name, weight in one.state_dict().items()}, tmp_path / "own.safetensors")
    loaded = load_weights(other, tmp_path / "own.safetensors")
    assert not loaded.unused
    assert loaded.encoder + loaded.head + loaded.others == len(one.state_dict())
    assert same(one.state_dict(), other.state_dict())


def test_a_projector_of_another_size_stays_in_the_file() -> None:
    narrow: dict[str, Any] = {"method.measure.projector.hidden": 256}
    one, other = built("cmae", seed=1), built("cmae", **narrow)
    loaded = load_weights(other, one.state_dict())
    assert loaded.others == len([name for name in one.state_dict() if name.startswith("measure.predictor.")])
    assert {name.split(".")[0] for name in loaded.unused} == {"online", "target"}
    assert same(other.online.state_dict(), other.target.state_dict())
