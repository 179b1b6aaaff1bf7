"""Learning rates and weight decay layer by layer, and the weights that an encoder begins with."""

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.optim._param_groups import param_groups_layer_decay
from torch import nn

from mim_ray.errors import Failure, Mistake
from mim_ray.methods import resolved
from mim_ray.run import Run
from mim_ray.siamese import Siamese
from mim_ray.training.optim import groups
from mim_ray.weights.files import save_timm
from mim_ray.weights.start import begin_with

SMALL = {"encoder": "micro", "method.measure.classes": 5}


def built(run: Run, seed: int = 0) -> Siamese:
    torch.manual_seed(seed)
    return run.method.build(run.data.crop.size, seed)


def by_name(model: nn.Module, parts: list[dict[str, Any]], scale: str) -> dict[str, tuple[float, float]]:
    names = {id(weight): name for name, weight in model.named_parameters()}
    return {
        names[id(weight)]: (round(part[scale], 9), part["weight_decay"])
        for part in parts
        for weight in part["params"]
    }


def encoder_of(model: Siamese) -> dict[str, torch.Tensor]:
    return {name: weight for name, weight in model.state_dict().items() if name.startswith("online.encoder.")}


def as_timms(name: str) -> str:
    name = name.removeprefix("online.encoder.").replace("patch_embed.", "patch_embed.proj.")
    return name.replace("measure.norm.", "fc_norm.").replace("measure.head.", "head.")


def test_layers_decay_as_timms() -> None:
    run = resolved("finetune", {"encoder": "vit-tiny", "method.measure.classes": 10})
    model, optim = built(run), run.optim
    theirs: Any = timm.create_model("vit_tiny_patch16_224", num_classes=10, global_pool="avg")
    skip, decay = theirs.no_weight_decay(), optim.layer_decay
    parts = param_groups_layer_decay(theirs, optim.weight_decay, no_weight_decay_list=skip, layer_decay=decay)
    wanted = by_name(theirs, parts, "lr_scale")
    del wanted["pos_embed"]  # ours are fixed
    found = {as_timms(name): rates for name, rates in by_name(model, groups(model, optim), "scale").items()}
    assert found == wanted
    assert len(found) == 12 * 12 + 7


def test_a_cnn_s_layers_are_its_stem_and_stages() -> None:
    run = resolved("finetune_a3", {"encoder": "resnet-micro", "eval.size": "none", "optim.layer_decay": 0.5})
    model = built(run)
    found = by_name(model, groups(model, run.optim), "scale")
    net = "online.encoder.net."
    scales = [found[net + name][0] for name in ("conv1.weight", "layer1.0.conv1.weight", "layer4.0.bn1.weight")]
    assert scales == [0.5**5, 0.5**4, 0.5]
    assert found["measure.head.weight"] == (1, 0.02)
    assert found[net + "layer4.0.bn1.weight"][1] == 0


def test_each_linear_classifier_has_its_rate_and_the_encoder_none() -> None:
    run = resolved("linear", {**SMALL, "method.measure.rates": "0.5,2"})
    model = built(run)
    found = by_name(model, groups(model, run.optim), "scale")
    assert found == {
        f"measure.heads.{number}.{part}": (rate, 0)
        for number, rate in enumerate((0.5, 2))
        for part in ("weight", "bias")
    }
    model.train()
    assert not model.online.encoder.training
    assert model.measure.training


@pytest.mark.parametrize("depth", [None, 2])
def test_an_encoder_begins_as_the_file_says(tmp_path: Path, depth: int | None) -> None:
    given = built(resolved("mae", {"encoder": "micro"}), seed=1)
    run = resolved("finetune", {**SMALL, "method.encoder.depth": depth})
    for path in (tmp_path / "ours.safetensors", tmp_path / "timms.safetensors"):
        if path.stem == "ours":
            save_file(encoder_of(given), path)
        else:
            save_timm(given, path)
        model = built(run)
        begin_with(model, str(path))
        found = model.online.encoder.state_dict()
        wanted = given.online.encoder.state_dict()
        assert found.keys() < wanted.keys()
        assert all(torch.equal(weight, wanted[name]) for name, weight in found.items())
        assert f"blocks.{(depth or 6) - 1}.norm1.weight" in found
        assert f"blocks.{depth or 6}.norm1.weight" not in found


def test_the_average_of_the_encoder_begins_alike(tmp_path: Path) -> None:
    given, path = built(resolved("mae", {"encoder": "micro"}), seed=1), tmp_path / "encoder.safetensors"
    save_file(encoder_of(given), path)
    model = built(resolved("mocov3", {"encoder": "micro"}))
    begin_with(model, str(path))
    assert model.target is not None
    tokens = (one.state_dict()["cls_token"] for one in (model.target.encoder, given.online.encoder))
    assert torch.equal(*tokens)


def test_what_is_no_file_of_weights_is_refused(tmp_path: Path) -> None:
    model = built(resolved("finetune", SMALL))
    with pytest.raises(Mistake, match=r"start=.*nowhere.safetensors: no such file"):
        begin_with(model, str(tmp_path / "nowhere.safetensors"))
    (tmp_path / "torn.safetensors").write_bytes(b"torn")
    with pytest.raises(Failure, match=r"start=.*torn.safetensors: cannot be read"):
        begin_with(model, str(tmp_path / "torn.safetensors"))
    save_file({"cls_token": torch.zeros(1, 1, 3)}, tmp_path / "other.safetensors")
    with pytest.raises(Mistake, match="another model"):
        begin_with(model, str(tmp_path / "other.safetensors"))
