"""Colour jitter: torchvision's arithmetic with factors of our own drawing, and what a draw depends on."""

import math

import pytest
import torch
import torchvision.transforms.functional as theirs
from torch import Tensor

from mim_ray.draws import Purpose
from mim_ray.transforms.colour import Jitter, blurred
from mim_ray.transforms.keyed import keys, uniforms

SURE = Jitter(chance=1.0, grey=0.0)
EVERYTHING = Jitter(brightness=0.8, contrast=0.8, saturation=0.8, hue=0.5, grey=0.3, blur=0.5, solarise=0.5)
NOTHING = Jitter(brightness=0, contrast=0, saturation=0, hue=0, chance=1.0, grey=0.0)
BRIGHTNESS, CONTRAST, SATURATION, HUE, CHANCE, GREY, BLUR, SIGMA, SOLARISE = range(9)


def key_of(images: int, seed: int = 0, view: int = 0) -> Tensor:
    return keys(Purpose.COLOUR, seed, view, torch.arange(images))


def pictures(images: int = 12, height: int = 16, width: int = 24) -> Tensor:
    """Noise, and corners of the cube: greys, black, white and pure colours are where hue is ill-defined."""
    x = torch.rand(images, 3, height, width, generator=torch.Generator().manual_seed(0))
    x[1] = (x[1] > 0.5).float()
    x[2] = x[2, :1]
    x[3] = x[3].mul(4).round() / 4
    return x


def jittered_by_torchvision(jitter: Jitter, x: Tensor, u: list[float]) -> Tensor:
    """One image."""

    def factor(strength: float, number: int) -> float:
        return 1 + strength * (2 * u[number] - 1)

    if u[CHANCE] < jitter.chance:
        x = theirs.adjust_brightness(x, factor(jitter.brightness, BRIGHTNESS))
        x = theirs.adjust_contrast(x, factor(jitter.contrast, CONTRAST))
        x = theirs.adjust_saturation(x, factor(jitter.saturation, SATURATION))
        x = theirs.adjust_hue(x, jitter.hue * (2 * u[HUE] - 1))
    if u[GREY] < jitter.grey:
        x = theirs.rgb_to_grayscale(x, 3)
    if u[BLUR] < jitter.blur:
        sigma = jitter.sigma[0] + u[SIGMA] * (jitter.sigma[1] - jitter.sigma[0])
        radius = min(math.ceil(3 * jitter.sigma[1]), x.shape[1] - 1, x.shape[2] - 1)
        x = theirs.gaussian_blur(x, [2 * radius + 1] * 2, [sigma] * 2)
    return theirs.solarize(x, 0.5) if u[SOLARISE] < jitter.solarise else x


def all_by_torchvision(jitter: Jitter, x: Tensor, key: Tensor) -> Tensor:
    u = uniforms(key, 9).tolist()
    return torch.stack([jittered_by_torchvision(jitter, *image) for image in zip(x, u, strict=True)])


@pytest.mark.parametrize(
    "jitter",
    [
        NOTHING.model_copy(update={"brightness": 1.0}),
        NOTHING.model_copy(update={"contrast": 1.0}),
        NOTHING.model_copy(update={"saturation": 1.0}),
        NOTHING.model_copy(update={"hue": 0.5}),
        NOTHING.model_copy(update={"grey": 1.0}),
        NOTHING.model_copy(update={"blur": 1.0}),
        NOTHING.model_copy(update={"blur": 1.0, "sigma": (0.5, 0.5)}),
        Jitter(),
        SURE,
        Jitter(brightness=0.4, contrast=0.4, saturation=0.2, hue=0.1, blur=1.0),
        Jitter(brightness=0.8, contrast=0.8, saturation=0.8, hue=0.5, blur=0.5),
    ],
    ids=lambda jitter: " ".join(f"{name}={value}" for name, value in jitter if value),
)
def test_each_image_is_changed_as_torchvision_would(jitter: Jitter) -> None:
    x, key = pictures(), key_of(12)
    assert torch.allclose(jitter(x, key, None), all_by_torchvision(jitter, x, key), atol=2e-5)


@pytest.mark.parametrize("jitter", [NOTHING.model_copy(update={"solarise": 1.0}), EVERYTHING])
def test_solarising_is_torchvisions_but_at_the_very_threshold(jitter: Jitter) -> None:
    """Rounding decides what happens to the few pixels whose value is half."""
    x, key = pictures(), key_of(12)
    wanted, unsolarised = (
        all_by_torchvision(one, x, key) for one in (jitter, jitter.model_copy(update={"solarise": 0.0}))
    )
    clear = (unsolarised - 0.5).abs() > 1e-4
    assert clear.float().mean() > 0.9
    assert (jitter(x, key, None) - wanted)[clear].abs().max() < 2e-5


def test_solarising_turns_what_is_at_least_half() -> None:
    x = torch.tensor([0.0, 0.25, 0.4999, 0.5, 0.75, 1.0]).expand(1, 3, 2, 6)
    turned = NOTHING.model_copy(update={"solarise": 1.0})(x, key_of(1), None)
    assert torch.allclose(turned, torch.tensor([0.0, 0.25, 0.4999, 0.5, 0.25, 0.0]).expand_as(x), atol=1e-6)


@pytest.mark.parametrize("size", [(5, 7), (2, 3), (3, 40)])
def test_pictures_smaller_than_the_blur_are_blurred_by_what_fits(size: tuple[int, int]) -> None:
    jitter, x = NOTHING.model_copy(update={"blur": 1.0}), pictures(4, *size)
    assert torch.allclose(jitter(x, key_of(4), None), all_by_torchvision(jitter, x, key_of(4)), atol=1e-5)


def test_the_radius_covers_three_of_the_largest_deviation() -> None:
    point = torch.zeros(1, 1, 41, 41)
    point[..., 20, 20] = 1
    cut, whole = (blurred(point, torch.full((1, 1, 1, 1), 2.0), radius) for radius in (6, 20))
    assert (cut - whole).abs().max() < 1e-3
    assert cut.sum().item() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("jitter", [SURE, EVERYTHING.model_copy(update={"blur": 0.0, "solarise": 0.0})])
def test_contrast_knows_of_shown_pixels_only(jitter: Jitter) -> None:
    """A picture that is only its shown pixels changes as these do."""
    x, key = pictures(), key_of(12)
    shown = torch.zeros(16, 24, dtype=torch.bool)
    shown[4:8, 8:20] = shown[12:] = True
    alone = jitter(x[:, :, shown][:, :, None], key, None)[:, :, 0]
    assert torch.allclose(jitter(x, key, shown.expand(12, 1, -1, -1))[:, :, shown], alone, atol=1e-5)
    assert not torch.allclose(jitter(x, key, None)[:, :, shown], alone, atol=1e-3)


def test_what_is_hidden_changes_no_shown_pixel() -> None:
    x, key, shown = pictures(), key_of(12), (torch.arange(16 * 24) % 3 == 0).view(16, 24)
    other = torch.where(shown, x, torch.rand(x.shape, generator=torch.Generator().manual_seed(1)))
    mask = shown.expand(12, 1, -1, -1)
    jitter = EVERYTHING.model_copy(update={"blur": 0.0})
    assert torch.equal(jitter(x, key, mask)[:, :, shown], jitter(other, key, mask)[:, :, shown])


@pytest.mark.parametrize(
    ("name", "value"), [("chance", 0.8), ("grey", 0.2), ("blur", 0.5), ("blur", 0.1), ("solarise", 0.2)]
)
def test_changes_are_as_frequent_as_they_are_said_to_be(name: str, value: float) -> None:
    only = {"chance": 0.0, "brightness": 0.4, "sigma": (1.0, 2.0)} | {name: value}
    x = torch.tensor([[0.1, 0.9], [0.6, 0.2]]) * torch.tensor([1.0, 0.8, 0.6])[:, None, None]
    x = x.expand(20_000, -1, -1, -1)
    changed = (NOTHING.model_copy(update=only)(x, key_of(20_000), None) != x).flatten(1).any(1)
    assert changed.float().mean().item() == pytest.approx(value, abs=4 * math.sqrt(value * (1 - value) / 20_000))


@pytest.mark.parametrize(("name", "low", "high"), [("brightness", 0.6, 1.4), ("saturation", 0.6, 1.4)])
def test_factors_are_uniform_within_their_strength(name: str, low: float, high: float) -> None:
    x = torch.tensor([0.3, 0.2, 0.2]).view(1, 3, 1, 1).expand(20_000, -1, -1, -1)
    got = NOTHING.model_copy(update={name: 0.4})(x, key_of(20_000), None).flatten(1)
    factors = got[:, 0] / 0.3 if name == "brightness" else (got[:, 0] - got[:, 1]) / 0.1
    steps = torch.linspace(low, high, 20_000)
    assert (factors.sort().values - steps).abs().max() < 1.95 / math.sqrt(20_000) * (high - low)


def test_the_draws_of_one_image_are_independent() -> None:
    correlations = uniforms(key_of(20_000), 9).T.corrcoef() - torch.eye(9)
    assert correlations.abs().max() < 4.5 / math.sqrt(20_000)


def test_an_image_changes_alike_in_any_batch() -> None:
    x, key = pictures(), key_of(12)
    pointwise = EVERYTHING.model_copy(update={"blur": 0.0})
    assert torch.equal(pointwise(x, key, None)[5:7], pointwise(x[5:7], key[5:7], None))
    blurs = Jitter(blur=1.0)
    assert torch.allclose(blurs(x, key, None)[5:7], blurs(x[5:7], key[5:7], None), atol=1e-6)


@pytest.mark.parametrize("other", [{"view": 1}, {"seed": 1}, {"view": ~0}])
def test_views_and_seeds_draw_apart(other: dict[str, int]) -> None:
    x = pictures()[:1].expand(12, -1, -1, -1)
    first, second = SURE(x, key_of(12), None), SURE(x, key_of(12, **other), None)
    assert (first - second).abs().amax((1, 2, 3)).min() > 1e-3
    assert (first[1:] - first[:-1]).abs().amax((1, 2, 3)).min() > 1e-3


def test_values_stay_shares_and_no_strength_is_no_change() -> None:
    x, key = pictures(), key_of(12)
    assert torch.allclose(NOTHING(x, key, None), x, atol=1e-6)
    extreme = Jitter(brightness=1, contrast=1, saturation=1, hue=0.5, chance=1, blur=1, solarise=0.5)(x, key, None)
    assert extreme.min() >= 0
    assert extreme.max() <= 1 + 1e-5


@pytest.mark.parametrize("sigma", [(0.0, 0.0), (-1.0, 2.0)])
def test_a_blur_without_a_width_is_refused(sigma: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="sigma"):
        Jitter(blur=1.0, sigma=sigma)


def test_jitter_is_the_same_for_ever() -> None:
    """A promise, as in the sample order: resuming must change colours alike under any later version."""
    x = torch.tensor([0.8, 0.4, 0.2]).view(1, 3, 1, 1).expand(2, -1, 1, 2)
    assert Jitter()(x, key_of(2, seed=7), None)[:, :, 0, 0].tolist() == [
        pytest.approx(row, abs=1e-6) for row in PROMISED
    ]


PROMISED = [[0.8, 0.4, 0.2], [0.49672, 0.49672, 0.49672]]
