"""Vision transformers: timm's arithmetic, where a token enters, and many views in one pass."""

import math
from collections.abc import Sequence
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

from mim_ray.encoders.vit import SHAPES, VisionTransformer, ViT
from mim_ray.errors import Mistake
from mim_ray.methods import resolved
from mim_ray.transforms.mask import ComplementMask, RandomMask
from mim_ray.views import Grid, Hiding, View

IMAGES, SIZE, GRID, DEPTH = 3, (16, 24), Grid(4, 6, 4), 6
EVERY_BLOCK = range(DEPTH + 1)
TOKENS = ["replace", "add"]


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


PIXELS = noise(IMAGES, 3, *SIZE)


def micro(**settings: object) -> VisionTransformer:
    torch.manual_seed(0)
    spec = ViT.model_validate({"size": "micro", "patch": 4} | settings)
    return spec.build(SIZE, hides=True, pooled=True).eval()


def hiding_of(view: int = 0, ratio: float = 0.5) -> Hiding:
    hiding = RandomMask(ratio=ratio).hiding(GRID, torch.arange(IMAGES), 0, view, None)
    assert hiding is not None
    return hiding


def complement_of(hiding: Hiding) -> Hiding:
    other = ComplementMask().hiding(GRID, torch.arange(IMAGES), 0, 1, hiding)
    assert other is not None
    return other


def stages_of(encoder: VisionTransformer, views: Sequence[View]) -> list[Tensor]:
    """What enters each block, and last what enters the norm."""
    found: list[Tensor] = []
    hooks = [
        module.register_forward_pre_hook(lambda _, given: found.append(given[0]))
        for module in (*encoder.blocks, encoder.norm)
    ]
    with torch.no_grad():
        encoder.encode(views)
    for hook in hooks:
        hook.remove()
    return found


# Timm's arithmetic.


def cheaply_made(spec: ViT, image: tuple[int, int]) -> VisionTransformer:
    """Weights of a few repeated draws: a huge model is made in a second."""
    with torch.device("meta"):
        ours = spec.build(image, hides=False, pooled=True)
    ours = ours.to_empty(device="cpu").eval()
    draws = 0.03 * noise(99_991)
    with torch.no_grad():
        for name, weight in ours.state_dict().items():
            repeated = draws.repeat(weight.numel() // len(draws) + 1)[: weight.numel()]
            weight.copy_(repeated.view_as(weight))
            if "norm" in name and name.endswith("weight"):
                weight.add_(1)
    return ours


def timms(ours: VisionTransformer, spec: ViT, image: tuple[int, int]) -> Any:
    """The same weights under timm's names; its patch embedding is a convolution."""
    shape, weights = SHAPES[spec.size], ours.state_dict()
    matrix = weights.pop("patch_embed.weight").unflatten(1, (spec.patch, spec.patch, spec.channels))
    weights["patch_embed.proj.weight"] = matrix.permute(0, 3, 1, 2)
    weights["patch_embed.proj.bias"] = weights.pop("patch_embed.bias")
    with torch.device("meta"):
        theirs = timm.create_model(
            "vit_base_patch16_224",
            num_classes=0,
            embed_dim=shape.width,
            depth=shape.depth,
            num_heads=shape.heads,
            patch_size=spec.patch,
            img_size=image,
            in_chans=spec.channels,
        )
    theirs.load_state_dict(weights, strict=True, assign=True)
    return theirs.eval()


@pytest.mark.parametrize(
    "spec",
    [
        ViT(size="micro", patch=4),
        ViT(size="micro", patch=8, channels=1),
        ViT(size="micro", patch=4, channels=5),
        *(ViT.model_validate({"size": size}) for size in ("tiny", "small", "base", "large")),
        ViT(size="huge", patch=14),
    ],
    ids=lambda spec: f"{spec.size}-{spec.patch}-{spec.channels}",
)
@torch.no_grad()
def test_whole_pictures_are_encoded_as_by_timm(spec: ViT) -> None:
    image = (spec.patch, 2 * spec.patch) if spec.size in ("large", "huge") else (2 * spec.patch, 3 * spec.patch)
    ours = cheaply_made(spec, image)
    pixels = noise(2, spec.channels, *image)
    tokens = ours(View(pixels, None))
    wanted = timms(ours, spec, image).forward_features(pixels)
    assert torch.allclose(tokens.pooled, wanted[:, 0], atol=1e-5)
    assert torch.allclose(tokens.patches, wanted[:, 1:], atol=1e-5)
    assert tokens.kept is None
    assert wanted.std() > 0.5


def test_every_size_is_the_published_one() -> None:
    published = {"tiny": (192, 12, 3), "small": (384, 12, 6), "base": (768, 12, 12), "large": (1024, 24, 16)}
    published["huge"] = (1280, 32, 16)
    assert {size: shape[:3] for size, shape in SHAPES.items() if size != "micro"} == published
    assert [ViT.model_validate({"size": size, "hidden": "add"}).entry for size in ("small", "base")] == [5, 8]


def test_positions_are_those_of_the_published_code() -> None:
    """Half of the features tell the column, half the row; in each, sines and then cosines; none for the class."""
    table, width = micro().pos_embed[0], 128
    assert not table[0].any()
    for row in range(GRID.rows):
        for column in range(GRID.columns):
            wanted = [
                wave(place / 10000 ** (number / (width / 4)))
                for place in (column, row)
                for wave in (math.sin, math.cos)
                for number in range(width // 4)
            ]
            assert torch.allclose(table[1 + row * GRID.columns + column], torch.tensor(wanted), atol=1e-6)


def test_weights_start_as_published() -> None:
    encoder = micro(hidden="replace")
    for module in encoder.modules():
        if isinstance(module, nn.Linear):
            limit = (6 / (module.in_features + module.out_features)) ** 0.5
            assert 0.97 * limit < module.weight.abs().max() <= limit
            assert not module.bias.any()
    for token in (encoder.cls_token, encoder.mask_token):
        assert 0.01 < token.std() < 0.03
    assert micro(freeze_patches=True).patch_embed.weight.requires_grad is False
    assert micro().patch_embed.weight.requires_grad is True


# The token.


@pytest.mark.parametrize("at", EVERY_BLOCK)
@pytest.mark.parametrize("hidden", TOKENS)
def test_the_token_enters_at_its_block_and_nowhere_before(hidden: str, at: int) -> None:
    encoder, hiding = micro(hidden=hidden, at=at), hiding_of()
    plain, marked = (stages_of(encoder, [View(PIXELS, one)]) for one in (None, hiding))
    assert len(plain) == len(marked) == DEPTH + 1
    assert all(torch.equal(one, other) for one, other in zip(plain[:at], marked[:at], strict=True))
    mask = hiding.mask
    with torch.no_grad():
        token, patches = encoder.mask_token[0], marked[at][:, 1:]
        wanted = (token + encoder.pos_embed[0, 1:]).expand_as(patches)
        wanted = plain[at][:, 1:] + token if hidden == "add" else wanted
    assert torch.equal(patches[mask], wanted[mask])
    assert torch.equal(patches[~mask], plain[at][:, 1:][~mask])
    assert torch.equal(marked[at][:, 0], plain[at][:, 0])
    for one, other in zip(plain[at + 1 :], marked[at + 1 :], strict=True):
        assert ((one - other).abs().amax(2) > 0).all()


@pytest.mark.parametrize("hidden", TOKENS)
def test_the_token_and_everything_before_it_get_a_gradient(hidden: str) -> None:
    encoder = micro(hidden=hidden, at=2)
    encoder(View(PIXELS, hiding_of())).patches.square().sum().backward()
    assert all(weight.grad is not None and weight.grad.any() for weight in encoder.parameters())


@pytest.mark.parametrize("ratio", [0.25, 0.5, 0.75])
def test_dropping_is_encoding_the_shown_patches_alone(ratio: float) -> None:
    """Each image by itself, its shown patches picked from its embeddings by hand."""
    encoder, hiding = micro(hidden="drop"), hiding_of(ratio=ratio)
    tokens = encoder(View(PIXELS, hiding))
    embedded = stages_of(encoder, [View(PIXELS, None)])[0]
    assert tokens.kept is not None
    assert torch.equal(tokens.kept, hiding.kept)
    for image, numbers in enumerate(hiding.kept):
        x = embedded[image : image + 1, [0, *(1 + numbers).tolist()]]
        for block in encoder.blocks:
            x = block(x)
        x = encoder.norm(x)
        assert torch.allclose(tokens.pooled[image], x[0, 0], atol=1e-5)
        assert torch.allclose(tokens.patches[image], x[0, 1:], atol=1e-5)


def test_an_encoder_has_a_mask_token_only_where_one_is_used() -> None:
    def has_token(hidden: str, hides: bool) -> bool:
        spec = ViT.model_validate({"size": "micro", "patch": 4, "hidden": hidden})
        return hasattr(spec.build(SIZE, hides=hides, pooled=True), "mask_token")

    assert [has_token(hidden, hides) for hidden in ("drop", "replace", "add") for hides in (False, True)] == [
        *(False, False),
        *(False, True),
        *(False, True),
    ]


# Many views in one pass.

VIEWS = {
    "complements": [View(PIXELS, hiding_of(ratio=0.25)), View(noise(*PIXELS.shape, seed=1), hiding_of(1, 0.75))],
    "hidden-whole": [View(PIXELS, hiding_of()), View(PIXELS, None)],
    "whole-hidden": [View(PIXELS, None), View(PIXELS, hiding_of())],
    "whole-whole": [View(PIXELS, None), View(noise(*PIXELS.shape, seed=1), None)],
    "three": [View(PIXELS, hiding_of(number, ratio)) for number, ratio in enumerate((0.25, 0.5, 0.75))],
}


@pytest.mark.parametrize("views", VIEWS.values(), ids=VIEWS)
@pytest.mark.parametrize(
    ("hidden", "at"), [("drop", None), *((hidden, at) for hidden in TOKENS for at in (0, 3, 6))]
)
def test_views_encoded_together_are_as_encoded_alone(hidden: str, at: int | None, views: list[View]) -> None:
    encoder = micro(hidden=hidden, at=at)
    outcomes = []
    for together in (True, False):
        encoder.zero_grad()
        tokens = encoder.encode(views) if together else [encoder(view) for view in views]
        parts = [part for one in tokens for part in one[:2]]
        torch.stack([(part * noise(*part.shape)).sum() for part in parts]).sum().backward()
        gradients = [weight.grad.clone() for weight in encoder.parameters() if weight.grad is not None]
        outcomes.append((parts, [one.kept for one in tokens], gradients))
    (packed, kept, slopes), (alone, kept_alone, slopes_alone) = outcomes
    for one, other in zip(packed, alone, strict=True):
        assert torch.allclose(one, other, atol=1e-5)
    for one, other in zip(slopes, slopes_alone, strict=True):
        assert torch.allclose(one, other, atol=1e-5 * max(1, other.abs().max().item()))
    for one, other in zip(kept, kept_alone, strict=True):
        assert one is other or (one is not None and other is not None and torch.equal(one, other))


@pytest.mark.parametrize(("hidden", "row"), [("drop", 64 + 2), ("replace", 2 * 65), ("add", 2 * 65)])
def test_two_complements_of_a_twin_lie_in_one_row(hidden: str, row: int) -> None:
    """Dropping leaves as many tokens as one whole picture has, and two class tokens."""
    model = resolved("rmae", {"encoder": "micro", "method.encoder.hidden": hidden}).method.build((32, 32))
    seen: list[torch.Size] = []
    encoder = model.online.encoder
    assert isinstance(encoder, VisionTransformer)
    encoder.blocks[0].register_forward_pre_hook(lambda _, given: seen.append(given[0].shape))
    crops = torch.zeros(2, 3, 32, 32, dtype=torch.uint8)
    model((crops,), torch.arange(2))
    assert seen == [torch.Size([2, row, 128])]


# Refusals.


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"at": 2}, "at=2: dropped patches have no token: expected hidden=replace or hidden=add"),
        ({"at": 7, "size": "micro", "hidden": "add"}, "at=7: a micro ViT has 6 blocks: expected 0 to 6"),
    ],
)
def test_a_token_without_a_place_is_refused(settings: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        ViT.model_validate(settings)


@pytest.mark.parametrize("image", [(16, 18), (18, 16)])
def test_pictures_that_are_not_whole_patches_are_refused(image: tuple[int, int]) -> None:
    words = f"patch=4: pictures of {image[0]} × {image[1]} are not whole patches"
    with pytest.raises(Mistake, match=words):
        ViT(size="micro", patch=4).fits(image, hides=True)
    with pytest.raises(Mistake, match=words):
        ViT(size="micro", patch=4).build(image, hides=True, pooled=True)
