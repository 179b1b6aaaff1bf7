"""T: masks, then fills, then colours; and no method is shown what it hides."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from mim_ray.draws import Purpose
from mim_ray.methods import resolved
from mim_ray.siamese import Siamese
from mim_ray.transforms.colour import Jitter
from mim_ray.transforms.keyed import keys
from mim_ray.transforms.mask import ComplementMask, RandomMask
from mim_ray.transforms.pixels import Normalise
from mim_ray.transforms.view import Shared, T, to_pixels
from mim_ray.views import Grid, Hiding, Labelled, Measured, Tokens, View

GRID, NORMALISE, IMAGES = Grid(3, 5, 4), Normalise(), 6
POSITION = torch.arange(10, 10 + IMAGES)
HALF = RandomMask(ratio=0.5)
BLURRED = Jitter(blur=1.0)
Change = Callable[[Tensor, Tensor], Tensor]


def bytes_of(*size: int, seed: int = 0) -> Tensor:
    return torch.randint(0, 256, size, dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


PIXELS = NORMALISE(bytes_of(IMAGES, 3, 12, 20))
CROPS = bytes_of(IMAGES, 3, 32, 32)


def view_of(t: T, pixels: Tensor = PIXELS, view: int = 0, partner: Hiding | None = None) -> View:
    return t(pixels, POSITION, grid=GRID, normalise=NORMALISE, seed=0, view=view, partner=partner)


def shown_of(view: View) -> Tensor:
    assert view.hiding is not None
    return ~to_pixels(view.hiding.mask, GRID)


def jittered(jitter: Jitter, pixels: Tensor, shown: Tensor | None, view: int) -> Tensor:
    key = keys(Purpose.COLOUR, 0, view, POSITION)
    return NORMALISE.redone(jitter(NORMALISE.undone(pixels), key, shown))


def test_a_transformation_that_does_nothing_returns_the_pixels() -> None:
    plain = view_of(T())
    assert plain.pixels is PIXELS
    assert plain.hiding is None
    masked = view_of(T(mask=HALF))
    assert masked.pixels is PIXELS
    assert masked.hiding is not None
    assert masked.hiding.shown == 7


def test_a_mask_of_patches_becomes_a_mask_of_their_pixels() -> None:
    mask = torch.zeros(1, 15, dtype=torch.bool)
    mask[0, 7] = True
    wanted = torch.zeros(1, 1, 12, 20, dtype=torch.bool)
    wanted[..., 4:8, 8:12] = True
    assert torch.equal(to_pixels(mask, GRID), wanted)


@pytest.mark.parametrize("fill", ["mean", "picture_mean"])
def test_hidden_pixels_become_the_mean_of_the_shown_ones_or_of_all(fill: str) -> None:
    view = view_of(T.model_validate({"mask": HALF, "fill": fill}))
    for image, pixels, shown in zip(view.pixels, PIXELS, shown_of(view)[:, 0], strict=True):
        mean = pixels[:, shown].mean(1) if fill == "mean" else pixels.mean((1, 2))
        assert torch.equal(image[:, shown], pixels[:, shown])
        assert torch.allclose(image[:, ~shown], mean[:, None], atol=1e-5)


def test_nothing_is_filled_where_nothing_is_hidden() -> None:
    assert view_of(T(fill="mean")).pixels is PIXELS
    assert view_of(T(mask=ComplementMask(), fill="mean")).pixels is PIXELS


@pytest.mark.parametrize("fill", ["none", "mean", "picture_mean"])
@pytest.mark.parametrize("view", [0, 1])
def test_pixels_are_filled_and_then_coloured(fill: str, view: int) -> None:
    filled = view_of(T.model_validate({"mask": HALF, "fill": fill}), view=view)
    both = view_of(T.model_validate({"mask": HALF, "fill": fill, "colour": Jitter()}), view=view)
    assert torch.equal(both.pixels, jittered(Jitter(), filled.pixels, shown_of(filled), view))


@pytest.mark.parametrize("fill", ["mean", "picture_mean"])
def test_a_blur_spreads_the_fill_and_not_what_is_hidden(fill: str) -> None:
    asked = view_of(T.model_validate({"mask": HALF, "fill": fill, "colour": BLURRED}))
    filled = view_of(T.model_validate({"mask": HALF, "fill": fill}))
    assert torch.equal(asked.pixels, jittered(BLURRED, filled.pixels, shown_of(filled), 0))
    if fill == "mean":
        assert torch.equal(asked.pixels, view_of(T(mask=HALF, colour=BLURRED)).pixels)


def test_each_view_is_coloured_by_itself() -> None:
    assert not torch.allclose(
        view_of(T(colour=Jitter(chance=1))).pixels, view_of(T(colour=Jitter(chance=1)), view=1).pixels, atol=1e-2
    )


def test_the_colour_of_the_picture_is_drawn_apart_from_a_views_own() -> None:
    jitter = Jitter(chance=1.0)
    whole = Shared(colour=jitter).coloured(PIXELS, POSITION, NORMALISE, 0, 0)
    assert torch.equal(whole, jittered(jitter, PIXELS, None, ~0))
    for view in (0, 1):
        assert not torch.allclose(whole, view_of(T(colour=jitter), view=view).pixels, atol=1e-2)
    assert Shared().coloured(PIXELS, POSITION, NORMALISE, 0, 0) is PIXELS


class Spy(nn.Module):
    """A measurement that remembers what it was told."""

    def forward(self, seen: Tokens, other: Tokens | Labelled | None, a: View, b: View) -> Measured:
        self.other, self.a, self.b = other, a, b
        return Measured(seen.patches.sum(), {})


def told(name: str, overrides: dict[str, object], crops: tuple[Tensor, ...] = (CROPS,)) -> Spy:
    model = micro(name, overrides)
    model.measure = Spy()
    model(crops, POSITION, torch.arange(IMAGES))
    return model.measure


def micro(name: str, overrides: dict[str, object]) -> Siamese:
    torch.manual_seed(0)
    word = "resnet-micro" if "r50" in name else "micro"
    return resolved(name, {"encoder": word} | overrides).method.build((32, 32), seed=0)


COLOURED = {"method.shared.colour": "on", "method.shared.colour.chance": 1.0}


def test_the_picture_is_coloured_once_for_both_views() -> None:
    spy = told("mae", COLOURED)
    assert torch.equal(spy.a.pixels, spy.b.pixels)
    assert torch.equal(spy.a.pixels, jittered(Jitter(chance=1.0), NORMALISE(CROPS), None, ~0))


def test_a_views_own_colour_comes_on_top_and_leaves_the_target_alone() -> None:
    spy = told("mae", COLOURED | {"method.t1.colour": "on", "method.t1.colour.chance": 1.0})
    whole = told("mae", COLOURED)
    assert torch.equal(spy.b.pixels, whole.b.pixels)
    assert spy.a.hiding is not None
    shown = ~to_pixels(spy.a.hiding.mask, Grid(8, 8, 4))
    assert torch.equal(spy.a.pixels, jittered(Jitter(chance=1.0), whole.a.pixels, shown, 0))


def test_two_crops_are_coloured_apart() -> None:
    spy = told("mocov3", COLOURED | {"method.t1.colour": "none", "method.t2.colour": "none"}, (CROPS, CROPS))
    assert not torch.allclose(spy.a.pixels, spy.b.pixels, atol=1e-2)


def test_cutmix_mixes_pictures_before_the_views_and_labels_alike() -> None:
    spy = told("supervised", {"method.shared.cutmix.chance": 1.0})
    mixed = Shared.model_validate({"cutmix": {}}).mixed((CROPS,), POSITION, 0)
    assert mixed is not None
    assert torch.equal(spy.a.pixels, NORMALISE(mixed.crops[0]))
    assert isinstance(spy.other, Labelled)
    assert spy.other.other is not None
    assert spy.other.share is not None
    assert torch.equal(spy.other.label, torch.arange(IMAGES))
    assert spy.other.other.tolist() == [1, 0, 3, 2, 5, 4]
    assert torch.equal(spy.other.share, mixed.share)
    assert torch.equal(told("mae", {"method.shared.cutmix": "on"}).b.pixels, spy.a.pixels)


BACKBONE: dict[str, object] = {"encoder": "resnet-micro"}
METHODS: list[tuple[str, dict[str, object]]] = [
    ("mae", {}),
    ("mae", {"method.t1.mask.block": 8}),
    ("mae", {"method.shared.cutmix": "on"}),
    ("mae_jitter_visible", {"method.t1.colour.chance": 1.0}),
    ("rmae", {}),
    ("rmae_25", {}),
    ("cmae", {"method.t1.colour.chance": 1.0, "method.t2.colour.chance": 1.0}),
    ("cmae", {"method.t1.colour.blur": 1.0, "method.t2.colour.blur": 1.0}),
    ("cmae_no_mask_token", {}),
    ("cmae_no_mask_token", {"method.t1.colour.blur": 1.0}),
    ("cmae_class", {"method.t1.fill": "mean"}),
    ("simmim", {}),
    ("simmim", {"method.encoder.at": 3, "method.t1.fill": "mean"}),
    ("simmim_r50", {}),
    ("a2mim", {}),
    ("a2mim_r50", {}),
    ("mae", BACKBONE),
    ("rmae", BACKBONE),
    ("rmae_25", BACKBONE),
    ("cmae", BACKBONE),
    ("simmim", BACKBONE),
    ("a2mim", BACKBONE),
    ("mae", BACKBONE | {"method.encoder.hidden": "add"}),
]
each_method = pytest.mark.parametrize(
    ("name", "overrides"), METHODS, ids=lambda value: value if isinstance(value, str) else " ".join(value)
)
CHANGES: dict[str, Change] = {
    "noise": lambda crops, where: torch.where(where, bytes_of(*crops.shape, seed=1), crops),
    "white": lambda crops, where: torch.where(where, 255, crops),
    "inverted": lambda crops, where: torch.where(where, 255 - crops, crops),
}


def shown_views(model: Siamese, crops: Tensor) -> tuple[View, View]:
    mixed = model.method.shared.mixed((crops,), POSITION, 0)
    pixels = model.normalise(crops if mixed is None else mixed.crops[0])
    return model.views(pixels, pixels, POSITION)


@torch.no_grad()
def tokens_of(model: Siamese, crops: Tensor) -> list[Tensor]:
    """Of the views that hide something, everything the encoder says."""
    views = [view for view in shown_views(model, crops) if view.hiding is not None]
    return [part for view in views for part in model.online.encoder(view)[:2]]


def hidden_pixels(model: Siamese, number: int) -> Tensor:
    hiding = shown_views(model, CROPS)[number].hiding
    assert hiding is not None
    return to_pixels(hiding.mask, model.online.encoder.grid)


@each_method
@pytest.mark.parametrize("change", CHANGES)
def test_changing_hidden_pixels_changes_no_output(name: str, overrides: dict[str, object], change: str) -> None:
    """Bit for bit, in training mode; where CutMix has pasted, a hidden pixel is one that neither picture shows."""
    model = micro(name, overrides)
    hidden = hidden_pixels(model, 0)
    if model.method.shared.cutmix:
        hidden = hidden.view(-1, 2, *hidden.shape[1:]).all(1).repeat_interleave(2, 0)
    changed = CHANGES[change](CROPS, hidden)
    assert not torch.equal(changed, CROPS)
    before, after = tokens_of(model, CROPS), tokens_of(model, changed)
    assert all(torch.equal(one, other) for one, other in zip(before[:2], after[:2], strict=True))


@each_method
def test_changing_shown_pixels_changes_the_output(name: str, overrides: dict[str, object]) -> None:
    model = micro(name, overrides)
    changed = CHANGES["noise"](CROPS, ~hidden_pixels(model, 0))
    patches, pooled = tokens_of(model, CROPS)[:2]
    patches_too, pooled_too = tokens_of(model, changed)[:2]
    assert ((patches - patches_too).abs().amax((1, 2)) > 1e-4).all()
    assert ((pooled - pooled_too).abs().amax(1) > 1e-4).all()


@pytest.mark.parametrize(
    ("name", "overrides"),
    [
        ("cmae", {}),
        ("cmae", {"method.t2.colour.blur": 1.0}),
        ("cmae", BACKBONE),
        ("rmae", BACKBONE),
    ],
)
def test_the_second_view_does_not_see_what_it_hides_either(name: str, overrides: dict[str, object]) -> None:
    model = micro(name, overrides)
    changed = CHANGES["noise"](CROPS, hidden_pixels(model, 1))
    before, after = tokens_of(model, CROPS), tokens_of(model, changed)
    assert torch.equal(before[2], after[2])
    assert torch.equal(before[3], after[3])
    assert not torch.equal(before[0], after[0])


def test_the_published_codes_fill_knows_the_whole_picture() -> None:
    model = micro("a2mim_code", {})
    changed = CHANGES["white"](CROPS, hidden_pixels(model, 0))
    assert not torch.equal(tokens_of(model, CROPS)[0], tokens_of(model, changed)[0])
