"""Backbones: timm's arithmetic, where a token enters, and which models and settings are refused."""

import re
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from mim_ray.cost import cost
from mim_ray.encoders.cnn import CNN, OURS, Backbone
from mim_ray.errors import Mistake
from mim_ray.methods import resolved
from mim_ray.transforms.mask import RandomMask
from mim_ray.views import Grid, Hiding, Tokens, View
from mim_ray.weights.files import save_timm
from mim_ray.weights.start import begin_with

IMAGES, SIZE, GRID = 4, (32, 48), Grid(4, 6, 8)
STAGES = range(5)
TOKENS = ["replace", "add"]
WIDTHS = {
    "resnet18": 512,
    "resnet50": 2048,
    "resnet101": 2048,
    "convnext_atto": 320,
    "convnext_tiny": 768,
    "regnety_002": 368,
    "efficientnet_b0": 1280,
    "resnet-micro": 256,
}


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


PIXELS = noise(IMAGES, 3, *SIZE)


def micro(**settings: object) -> Backbone:
    torch.manual_seed(0)
    spec = CNN.model_validate({"name": "resnet-micro", "stem": "small", "patch": 8} | settings)
    return spec.build(SIZE, hides=True, pooled=True)


def hiding_of(view: int = 0) -> Hiding:
    hiding = RandomMask(ratio=0.5).hiding(GRID, torch.arange(IMAGES), 0, view, None)
    assert hiding is not None
    return hiding


def square_of(hiding: Hiding, height: int) -> Tensor:
    """(B, 1, H, W): where features of that height are hidden."""
    mask = hiding.mask.view(-1, 1, GRID.rows, GRID.columns)
    return mask.repeat_interleave(height // GRID.rows, 2).repeat_interleave(height // GRID.rows, 3)


def timms(ours: Backbone, name: str) -> Any:
    """The same weights in a model that timm makes, under the same names."""
    theirs, settings = OURS.get(name, (name, {}))
    model: Any = timm.create_model(theirs, num_classes=0, **settings)
    model.load_state_dict(ours.net.state_dict(), strict=True)
    return model


def enlivened(model: nn.Module) -> None:
    """New batch norms and layer scales are ones and zeros, which would hide much."""
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.dim() == 1:
                weight.copy_(0.3 * noise(len(weight), seed=len(name)) + (0.8 if name.endswith("weight") else 0))


# Timm's arithmetic.


@pytest.mark.parametrize("name", WIDTHS)
@torch.no_grad()
def test_whole_pictures_are_encoded_as_by_timm(name: str) -> None:
    ours = CNN(name=name).build((64, 96), hides=False, pooled=True)
    enlivened(ours)
    theirs, pixels = timms(ours, name), noise(2, 3, 64, 96)
    for training in (True, False):  # the first fills the running statistics
        torch.manual_seed(0)
        tokens = ours.train(training)(View(pixels, None))
        torch.manual_seed(0)
        wanted = theirs.train(training).forward_features(pixels)
        torch.testing.assert_close(tokens.patches, wanted.flatten(2).mT, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(tokens.pooled, theirs(pixels), rtol=1e-5, atol=1e-5)
    assert wanted.std() > 1e-3
    assert tokens.kept is None


@pytest.mark.parametrize("name", WIDTHS)
def test_cells_and_widths_are_the_last_features(name: str) -> None:
    ours = CNN(name=name, patch=16).build((64, 96), hides=False, pooled=False)
    assert ours.width == WIDTHS[name] == ours.net.num_features
    assert ours.cells == Grid(2, 3, 32)
    assert ours.grid == Grid(4, 6, 16)


def test_a_small_stem_has_no_stride() -> None:
    encoder = micro(channels=1)
    assert encoder.cells == GRID
    assert encoder(View(PIXELS[:, :1], None)).patches.shape == (IMAGES, GRID.patches, 256)


@pytest.mark.parametrize("name", ["mambaout_femto", "poolformer_s12", "mobilenetv3_small_050", "pvt_v2_b0"])
def test_a_backbone_is_encoded_rightly_or_refused(name: str) -> None:
    """Some of timm's models keep their channels last."""
    try:
        ours = CNN(name=name).build((64, 96), hides=False, pooled=True).eval()
    except Mistake:
        return
    assert ours.width == ours.net.num_features
    assert ours(View(noise(2, 3, 64, 96), None)).patches.shape == (2, ours.cells.patches, ours.width)


# The token.


@torch.no_grad()
def stages_of(encoder: Backbone, view: View) -> tuple[list[Tensor], Tokens]:
    """What leaves the stem and each stage, as the next one is given it."""
    found: list[Tensor] = []
    hooks = [
        part[0].register_forward_pre_hook(lambda _, given: found.append(given[0].clone()))
        for part in encoder._parts[1:]
    ]
    tokens = encoder(view)
    for hook in hooks:
        hook.remove()
    last = tokens.patches.mT.unflatten(2, (encoder.cells.rows, encoder.cells.columns))
    return [*found, last], tokens


@pytest.mark.parametrize("at", STAGES)
@pytest.mark.parametrize("hidden", TOKENS)
@pytest.mark.parametrize("training", [True, False])
def test_the_token_enters_after_its_stage_and_nowhere_before(hidden: str, at: int, training: bool) -> None:
    encoder, hiding = micro(hidden=hidden, at=at).train(training), hiding_of()
    plain, marked = (stages_of(encoder, View(PIXELS, one))[0] for one in (None, hiding))
    assert len(plain) == len(marked) == len(STAGES)
    assert all(torch.equal(one, other) for one, other in zip(plain[:at], marked[:at], strict=True))
    mask = square_of(hiding, plain[at].shape[2]).expand_as(plain[at])
    token = encoder.mask_token.detach().expand_as(plain[at])
    wanted = plain[at] + token if hidden == "add" else token
    assert torch.equal(marked[at][mask], wanted[mask])
    assert torch.equal(marked[at][~mask], plain[at][~mask])
    for one, other in zip(plain[at + 1 :], marked[at + 1 :], strict=True):
        assert ((one - other).abs().amax((1, 2, 3)) > 0).all()


@pytest.mark.parametrize(("hidden", "at", "entry"), [("add", None, 3), ("replace", None, 0), ("add", 1, 1)])
def test_the_token_enters_where_the_papers_say(hidden: str, at: int | None, entry: int) -> None:
    assert CNN.model_validate({"hidden": hidden, "at": at}).entry == entry
    features = CNN(name="resnet50").fits((224, 224), hides=True)
    assert features == ((64, 4), (256, 4), (512, 8), (1024, 16), (2048, 32))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(("hidden", "at"), [(hidden, at) for hidden in TOKENS for at in (0, 3)])
def test_views_encoded_together_are_bit_for_bit_as_encoded_alone(hidden: str, at: int, training: bool) -> None:
    encoder = micro(hidden=hidden, at=at).train(training)
    views = [View(PIXELS, hiding_of()), View(noise(*PIXELS.shape, seed=1), hiding_of(1)), View(PIXELS, None)]
    outcomes = []
    for together in (True, False):
        encoder.zero_grad()
        tokens = encoder.encode(views) if together else [encoder(view) for view in views]
        parts = [part for one in tokens for part in one[:2]]
        torch.stack([(part * noise(*part.shape)).sum() for part in parts]).sum().backward()
        outcomes.append([*parts, *(weight.grad for weight in encoder.parameters() if weight.grad is not None)])
    assert len(outcomes[0]) > 20
    assert all(torch.equal(one, other) for one, other in zip(*outcomes, strict=True))


@pytest.mark.parametrize("pooled", [True, False])
@pytest.mark.parametrize(
    "name", ["resnet18", "convnext_atto", "regnety_002", "mobilenetv3_small_050", "ghostnet_050"]
)
def test_every_weight_that_is_trained_gets_a_gradient(name: str, pooled: bool) -> None:
    """Of a head that nobody asks, none is: DDP waits for each."""
    encoder = CNN(name=name).build((64, 64), hides=False, pooled=pooled)
    tokens = encoder(View(noise(2, 3, 64, 64), None))
    (tokens.pooled if pooled else tokens.patches).square().sum().backward()
    idle = [name for name, weight in encoder.named_parameters() if weight.requires_grad and weight.grad is None]
    assert idle == []


# The first stages alone.

SHALLOW = ["resnet18", "resnet50", "convnext_atto", "regnety_002", "resnet-micro"]


@pytest.mark.parametrize("depth", [1, 2, 3])
@pytest.mark.parametrize("name", SHALLOW)
@torch.no_grad()
def test_a_shallow_encoder_ends_with_timms_feature_of_its_stage(name: str, depth: int) -> None:
    torch.manual_seed(0)
    whole = CNN(name=name).build((64, 96), hides=False, pooled=True).eval()
    enlivened(whole)
    theirs, pixels = timms(whole, name).eval(), noise(2, 3, 64, 96)
    wanted = theirs.forward_intermediates(pixels, intermediates_only=True)[depth - 5]
    ours = CNN(name=name, depth=depth).build((64, 96), hides=False, pooled=True).eval()
    weights = {name: weight for name, weight in whole.state_dict().items() if not name.startswith(ours.later)}
    ours.load_state_dict(weights, strict=True)
    tokens = ours(View(pixels, None))
    torch.testing.assert_close(tokens.patches, wanted.flatten(2).mT, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(tokens.pooled, wanted.mean((2, 3)), rtol=1e-5, atol=1e-5)
    assert tokens.patches.shape == (2, ours.cells.patches, ours.width)
    assert ours.cells == Grid(wanted.shape[2], wanted.shape[3], 64 // wanted.shape[2])


@pytest.mark.parametrize("name", SHALLOW)
def test_all_stages_are_the_whole_encoder(name: str) -> None:
    whole, deep = (CNN(name=name, depth=depth).build((64, 64), hides=False, pooled=True) for depth in (None, 4))
    assert list(deep.state_dict()) == list(whole.state_dict())
    assert deep.later == ()


@pytest.mark.parametrize("pooled", [True, False])
@pytest.mark.parametrize("name", [*SHALLOW, "efficientnet_b0", "mobilenetv3_small_050"])
def test_later_stages_take_part_in_nothing(name: str, pooled: bool) -> None:
    torch.manual_seed(0)
    encoder = CNN(name=name, depth=2).build((64, 64), hides=False, pooled=pooled)
    tokens = encoder(View(noise(2, 3, 64, 64), None))
    (tokens.pooled if pooled else tokens.patches).square().sum().backward()
    assert all(weight.requires_grad and weight.grad is not None for weight in encoder.parameters())
    torch.manual_seed(0)
    whole = dict(CNN(name=name).build((64, 64), hides=False, pooled=pooled).named_parameters())
    mine = dict(encoder.named_parameters())
    assert all(torch.equal(weight, whole[name]) for name, weight in mine.items())
    assert len(mine) < len(whole)


def test_layers_of_a_shallow_encoder_are_its_stem_and_stages() -> None:
    encoder = micro(depth=2, at=0)
    names = ["mask_token", "net.conv1.weight", "net.layer1.0.conv1.weight", "net.layer2.0.bn1.weight"]
    assert ([encoder.layer_of(name) for name in names], encoder.layers) == ([0, 0, 1, 2], 4)


def test_a_shallow_encoder_costs_what_it_does() -> None:
    """By hand: of the stem, and of each stage's one block, two convolutions and one beside them."""
    words = {"encoder": "resnet-micro", "method.measure.pool": "mean", "method.measure.classes": 10}
    found = cost(resolved("linear_r50", {**words, "method.encoder.depth": 2, "eval.size": "none"}))
    stem, first, second = 27 * 64, (9 * 64 + 9 * 32 + 64) * 32, (9 * 32 + 9 * 64 + 32) * 64
    norms = 2 * (64 + 3 * 32 + 3 * 64)
    assert found.encoder_parameters == stem + first + second + norms
    multiplied = (stem + first) * 32 * 32 + second * 16 * 16
    assert found.flops == 2 * multiplied + 2 * 2 * 64 * 10
    assert found.parameters == 64 * 10 + 10


@pytest.mark.parametrize(("hidden", "entry"), [("add", 2), ("replace", 0)])
def test_the_token_enters_within_a_shallow_encoder(hidden: str, entry: int) -> None:
    encoder = micro(hidden=hidden, depth=2)
    assert encoder.entry == entry
    (encoder(View(PIXELS, hiding_of())).patches - encoder(View(PIXELS, None)).patches).sum().backward()
    assert encoder.mask_token.grad is not None
    assert encoder.mask_token.grad.abs().sum() > 0


def test_a_whole_model_starts_a_shallow_one(tmp_path: Path) -> None:
    """Under timm's names, with its classifier; all of it is in the file, and the first stages are taken."""
    words = {"encoder": "convnext_atto", "method.measure.classes": 10, "eval.size": "none"}
    shallow = resolved("linear_r50", {**words, "method.encoder.depth": 2}).method.build((64, 64))
    theirs = timm.create_model("convnext_atto")
    save_file(theirs.state_dict(), tmp_path / "whole.safetensors")
    begin_with(shallow, str(tmp_path / "whole.safetensors"))
    wanted = theirs.state_dict()
    held = shallow.online.encoder.state_dict()
    assert all(torch.equal(weight, wanted[name.removeprefix("net.")]) for name, weight in held.items())
    with pytest.raises(Mistake, match="timm has no CNN without its last stages"):
        save_timm(shallow, tmp_path / "out.safetensors")
    begin_with(resolved("linear_r50", words).method.build((64, 64)), str(tmp_path / "whole.safetensors"))
    save_file(held, tmp_path / "shallow.safetensors")
    with pytest.raises(Mistake, match=r"is missing .* expected convnext_atto"):
        begin_with(resolved("linear_r50", words).method.build((64, 64)), str(tmp_path / "shallow.safetensors"))


# Refusals.


@pytest.mark.parametrize("name", ["swin_tiny_patch4_window7_224", "vgg11", "densenet121", "coatnet_nano_rw_224"])
def test_a_model_that_cannot_be_cut_is_refused(name: str) -> None:
    words = f"name={name}: it cannot be cut into a stem and stages: expected a ResNet, a ConvNeXt …"
    with pytest.raises(Mistake, match=re.escape(words)):
        CNN(name=name).build((224, 224), hides=False, pooled=False)
    with pytest.raises(Mistake, match=re.escape(f"method.encoder.{words}")):
        resolved("simmim_r50", {"encoder": name})


@pytest.mark.parametrize("name", ["resnetv2_50", "resnet50d", "resnet26t"])
def test_a_stem_that_cannot_be_made_small_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="stem=small"):
        CNN(name=name, stem="small").build((64, 64), hides=False, pooled=False)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"name": "resnet5O"}, "no such backbone: did you mean 'resnet50'?"),
        ({"name": "convnext_tinny"}, "no such backbone: did you mean 'convnext_tiny'?"),
        ({"name": "resnet_micro"}, "no such backbone: did you mean 'resnet-micro'?"),
        ({"hidden": "drop"}, "a convolution needs every patch: expected replace or add"),
        (
            {"name": "convnext_tiny", "stem": "small"},
            "only a ResNet's stem can be made small, not convnext_tiny's",
        ),
    ],
)
def test_a_setting_that_cannot_be_is_refused(settings: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=re.escape(words)):
        CNN.model_validate(settings)


def test_a_user_who_asks_to_drop_is_told_so_by_path() -> None:
    words = "method.encoder.hidden=drop: a convolution needs every patch: expected replace or add"
    with pytest.raises(Mistake, match=re.escape(words)):
        resolved("simmim_r50", {"method.encoder.hidden": "drop"})


@pytest.mark.parametrize(
    ("settings", "image", "words"),
    [
        ({}, (224, 240), "patch=32: pictures of 224 × 240 are not whole patches"),
        ({"patch": 16}, (224, 240), "name=resnet50: 224 × 240 pixels: expected multiples of 32"),
        ({"patch": 48}, (192, 192), "patch=48: expected a multiple or a divisor of the stride, 32"),
        ({"at": 5}, (64, 64), "at=5: resnet50 has 4 stages: expected one of them"),
        (
            {"at": 4, "patch": 16},
            (64, 64),
            "at=4: a cell after that stage is 32 pixels wide, which a hidden patch",
        ),
        ({"depth": 5}, (64, 64), "depth=5: resnet50 has 4 stages: expected 1 to 4"),
        ({"depth": 2, "at": 3}, (64, 64), "at=3: resnet50 with depth=2 has 2 stages: expected one of them"),
        ({"depth": 1, "patch": 6}, (12, 12), "patch=6: expected a multiple or a divisor of the stride, 4"),
    ],
)
def test_pictures_that_cannot_be_divided_are_refused(
    settings: dict[str, object], image: tuple[int, int], words: str
) -> None:
    with pytest.raises(Mistake, match=re.escape(words)):
        CNN.model_validate(settings).fits(image, hides=True)


@pytest.mark.parametrize(
    ("depth", "words"),
    [(0, "expected an integer greater than 0"), (9, "convnext_tiny has 4 stages: expected 1 to 4")],
)
def test_a_user_who_asks_for_other_stages_is_told_so_by_path(depth: int, words: str) -> None:
    with pytest.raises(Mistake, match=f"method.encoder.depth={depth}: {words}"):
        resolved("linear_r50", {"encoder": "convnext_tiny", "method.encoder.depth": depth})


def test_a_place_for_the_token_is_asked_for_only_where_something_is_hidden() -> None:
    CNN(at=5).build((64, 64), hides=False, pooled=False)
    assert not hasattr(CNN().build((64, 64), hides=False, pooled=False), "mask_token")
