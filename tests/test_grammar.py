"""Sentences that mean nothing are refused with their path and the way out; those near by are said and learnt."""

from collections.abc import Mapping, Sequence
from typing import get_args

import pytest
import torch

from mim_ray.config import flatten, resolve
from mim_ray.encoders.target import Target
from mim_ray.errors import Mistake
from mim_ray.grammar import TARGETS, WORDS
from mim_ray.measures.contrast import Contrast
from mim_ray.measures.measure import Measure
from mim_ray.methods import METHODS, resolved
from mim_ray.run import Run

Overrides = Mapping[str, object]
IMAGES = 4
POSITION, LABELS = torch.arange(IMAGES), torch.tensor([0, 1, 0, 2])
CROPS = torch.randint(
    0, 256, (2, IMAGES, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
)
LINEAR = "method.measure.head=linear: a dropped patch has no token to be painted from: "
BY_TOKEN = "method.t2.mask=complement: the views share no patch for a token-wise loss, since each drops what the "
BY_PLACE = "method.crops=2: patches of two windows do not correspond: expected method.crops=1"
NO_TWO_MEASURES = "method.measure={} does not compare with {}: expected {}"
NEEDS_THREE = "method.encoder.channels={}: colour jitter needs 3 channels: expected colour=none"
SAME = ": both views are the same picture, whose decodings have nothing to agree on: expected "
COMPARED = "it would change the pixels that are compared: expected none"
NO_SECOND = "labels have no second view: expected none, or method.t1.{}"
COMPLEMENT = "method.t2.mask=complement: what one window hides is not where another shows it: expected "
SECOND_ALONE: Overrides = {"method.t1.mask": "none", "method.t2.mask": "random", "method.t2.mask.ratio": 0.5}
CHANNELS_OF_ONE: Overrides = {"method.encoder.channels": 1, "method.mean": "0.5", "method.std": "0.5"}

REFUSED: dict[str, Sequence[tuple[str, Overrides, str]]] = {
    "a measurement and what it compares with": [
        ("mae", {"method.target": target}, NO_TWO_MEASURES.format("reconstruct", target, "method.target=pixels"))
        for target in ("twin", "ema", "labels")
    ]
    + [
        (name, {"method.target": target}, NO_TWO_MEASURES.format(measure, target, wanted))
        for name, measure in (("rmae", "relax"), ("cmae", "contrast"), ("mocov3", "contrast"))
        for target in ("pixels", "labels")
        for wanted in ["method.target=twin or method.target=ema"]
    ]
    + [
        (
            "supervised",
            {"method.target": target},
            NO_TWO_MEASURES.format("classify", target, "method.target=labels"),
        )
        for target in ("pixels", "twin", "ema")
    ],
    "words that others make idle": [
        (
            "mae",
            SECOND_ALONE,
            "method.t2.mask=random: where the first view hides nothing all is painted: expected ",
        ),
        ("cmae_byol", {"method.measure.temperature": 0.5}, "method.measure.temperature=0.5: byol has none"),
        (
            "a2mim",
            {"method.measure.fourier.focused": False, "method.measure.fourier.alpha": 3},
            "method.measure.fourier.alpha=3.0: focused=false weighs all alike",
        ),
        ("supervised", {"method.measure.threshold": 0.2}, "method.measure.threshold=0.2: it is for loss=bce"),
        ("cmae", {"batch": 1}, "batch=1: a contrast needs other pictures: expected at least 2"),
        (
            "cmae",
            {"method.measure.temperature": "inf"},
            "method.measure.temperature=inf: expected a finite number",
        ),
        (
            "cmae_class",
            {"method.encoder.at": 12},
            "method.encoder.at=12: the class token is made before the token for hidden patches",
        ),
        (
            "mae",
            {"checkpoint.best": "eval/loss"},
            "checkpoint.best=eval/loss: of pictures that are not learnt from: expected data.val=",
        ),
        (
            "mae",
            {"eval.patience": 2, "eval.every_epochs": "none"},
            "eval.patience=2: nothing is found to wait for: set eval.every_epochs=",
        ),
    ],
    "what cannot be symmetric": [
        (
            name,
            {"method.symmetric": True},
            f"method.symmetric=true: {target} cannot be exchanged with a view: expected false",
        )
        for name, target in (("mae", "pixels"), ("simmim", "pixels"), ("supervised", "labels"))
    ]
    + [
        (
            "rmae_0",
            {"method.symmetric": True},
            "method.symmetric=true: the second view hides nothing to score: expected method.t2.mask",
        )
    ],
    "views": [
        (
            "cmae",
            {"method.t1.mask": "complement"},
            "method.t1.mask=complement: the first view has no partner: expected random or none",
        ),
        ("mae", {"method.crops": 2}, BY_PLACE),
        ("rmae", {"method.crops": 2}, BY_PLACE),
        ("cmae", {"method.crops": 2}, BY_PLACE),
        ("cmae_token_class", {"method.crops": 2}, BY_PLACE),
        (
            "supervised",
            {"method.crops": 2},
            "method.crops=2: labels have no second view: expected method.crops=1",
        ),
        (
            "mae",
            {"method.t1.fill": "mean"},
            "method.t1.fill=mean: hidden patches are dropped, not filled: expected none",
        ),
        (
            "rmae",
            {"method.t2.fill": "picture_mean"},
            "method.t2.fill=picture_mean: hidden patches are dropped, not filled: expected none",
        ),
        *(
            ("rmae", overrides, said + SAME + f"{masked} or method.t2.mask=random")
            for overrides, said, masked in (
                ({"method.t1.mask": "none"}, "method.t1.mask=none", "method.t1.mask=random"),
                (
                    {"method.t1.mask": "none", "method.t2.mask": "none"},
                    "method.t1.mask=none",
                    "method.t1.mask=random",
                ),
                ({"method.t1.mask.ratio": 0}, "method.t1.mask.ratio=0", "a ratio above 0"),
            )
        ),
        *(
            (name, overrides, COMPLEMENT + "method.t2.mask=random or none, or method.crops=1")
            for name, overrides in (
                ("mocov3", {"method.t2.mask": "complement"}),
                ("cmae_class", {"method.crops": 2}),
            )
        ),
        *(
            (
                "cmae",
                {f"method.{place}.colour": "on", f"method.{place}.colour.sigma": "2,0.1"},
                f"method.{place}.colour.sigma: expected the least and then the most",
            )
            for place in ("t1", "t2", "shared")
        ),
    ],
    "what trains nothing": [
        (
            "simmim",
            {"method.encoder.at": 12},
            "method.encoder.at=12: a token that replaces patches after the last block leaves",
        ),
        (
            "simmim_r50",
            {"method.encoder.hidden": "replace", "method.encoder.at": 4},
            "method.encoder.at=4: a token",
        ),
        (
            "rmae",
            {"method.target.stop_gradient": True, "method.measure.penalty": 0, "method.measure.separate": True},
            "method.measure.separate=true: nothing would train the second decoder: expected a ",
        ),
        (
            "cmae",
            {
                "method.t1.mask": "none",
                "method.t2.mask": "none",
                "method.t1.colour": None,
                "method.t2.colour": None,
            },
            "method.t1.mask=none: both views are the same picture, which teaches nothing: expected ",
        ),
        ("cmae_byol", {"method.target": "twin"}, "method.target=twin: byol is perfect where all pictures are"),
        (
            "cmae_no_mask_token",
            {"method.t1.mask.ratio": 0.95, "method.t2.mask": "random", "method.t2.mask.ratio": 0.95},
            "method.t1.mask.ratio=0.95 and method.t2.mask.ratio=0.95: of 196 patches the views show 9 and 9",
        ),
        (
            "mae",
            {"method.measure.fourier": "paper"},
            "method.measure.normalise=true: patches that are normalised one by one make no picture",
        ),
    ],
    "a second view that nobody encodes": [
        ("mae", {"method.t2.fill": "mean"}, "method.t2.fill=mean: " + COMPARED),
        ("a2mim", {"method.t2.fill": "picture_mean"}, "method.t2.fill=picture_mean: " + COMPARED),
        ("mae", {"method.t2.colour": "on"}, "method.t2.colour=on: " + COMPARED + ", method.shared.colour=on"),
        (
            "a2mim",
            {"method.t2.colour.blur": 0.5},
            "method.t2.colour=on: " + COMPARED + ", method.shared.colour=on",
        ),
        *(
            ("supervised", {f"method.t2.{name}": word}, f"method.t2.{name}={word}: " + NO_SECOND.format(name))
            for name, word in (("mask", "random"), ("mask", "complement"), ("fill", "mean"), ("colour", "on"))
        ),
    ],
    "numbers of a measurement": [
        (
            "mae",
            {"method.measure.head.heads": 7},
            "method.measure.head.heads=7: expected a divisor of width=512, such as 8",
        ),
        (
            "rmae",
            {"method.measure.head.width": 510, "method.measure.head.heads": 10},
            "method.measure.head.width=510: expected a multiple of 4, such as 520",
        ),
        (
            "cmae_byol",
            {"method.measure.negatives": "all"},
            "method.measure.negatives=all: byol has no negatives: expected method.measure.negatives=position or "
            "method.measure.loss=infonce",
        ),
        (
            "cmae_mean",
            {"method.measure.negatives": "all"},
            "method.measure.negatives=all: by=mean compares one feature of each picture, so there are no "
            "other positions: expected method.measure.negatives=position or method.measure.by=token",
        ),
        (
            "mae",
            {**CHANNELS_OF_ONE, "method.encoder.patch": 1},
            "method.encoder.patch=1: a patch of one value has no variance to be divided by: expected",
        ),
    ],
    "the place of a token": [
        ("simmim", {"method.encoder.at": 13}, "method.encoder.at=13: a base ViT has 12 blocks: expected 0 to 12"),
        ("mae", {"method.encoder.at": 3}, "method.encoder.at=3: dropped patches have no token: expected hidden="),
    ],
    "tokens that are not there": [
        (
            name,
            {"method.measure.head": "linear"},
            LINEAR + "expected method.measure.head=decoder, or method.encoder.hidden=replace or add",
        )
        for name in ("mae", "rmae")
    ]
    + [
        (
            "rmae",
            {"method.measure.head": "linear", **SECOND_ALONE},
            LINEAR + "expected method.measure.head=decoder, or method.encoder.hidden=replace or add",
        ),
        (
            "rmae",
            {
                "method.measure.head": "linear",
                **SECOND_ALONE,
                "method.t1.mask": "random",
                "method.t1.mask.ratio": 0,
            },
            LINEAR + "expected method.measure.head=decoder, or method.encoder.hidden=replace or add",
        ),
    ]
    + [
        (
            name,
            {"method.encoder.hidden": "drop"},
            BY_TOKEN + "other shows: expected method.t2.mask=none, method.encoder.hidden=replace, "
            "or method.measure.by=mean or class",
        )
        for name in ("cmae", "cmae_token_class")
    ],
    "channels": [
        ("mae", {"method.encoder.channels": 1}, "method.mean: 3 values for 1 channels: expected one for each"),
        (
            "simmim_r50",
            {"method.encoder.channels": 5, "method.mean": "0,0,0,0,0"},
            "method.std: 3 values for 5 channels: expected one for each",
        ),
        ("mae", {"method.std": "1,0,1"}, "method.std: expected numbers above 0"),
        ("mae", {"method.std": "1,-1,1"}, "method.std: expected numbers above 0"),
        ("mae_jitter_visible", CHANNELS_OF_ONE, NEEDS_THREE.format(1)),
        ("mae_jitter_whole", CHANNELS_OF_ONE, NEEDS_THREE.format(1)),
        ("cmae", {**CHANNELS_OF_ONE, "method.t1.colour": "none"}, NEEDS_THREE.format(1)),
    ],
    "pictures": [
        (
            "mae",
            {"data.crop.size": "224,230"},
            "method.encoder.patch=16: pictures of 224 × 230 are not whole patches",
        ),
        (
            "simmim_r50",
            {"method.encoder.at": 5},
            "method.encoder.at=5: resnet50 has 4 stages: expected one of them",
        ),
        (
            "simmim",
            {"data.crop.size": "240,240"},
            "method.t1.mask.block=32: pictures of 240 × 240 are not whole blocks",
        ),
        (
            "simmim",
            {"method.encoder.patch": 14},
            "method.t1.mask.block=32: expected a multiple of the patch, which has 14 pixels",
        ),
        ("mae", {"method.t1.mask.ratio": 0.999}, "method.t1.mask.ratio=0.999: hides all of 196 blocks: expected"),
        (
            "rmae_25",
            {"method.t2.mask.ratio": 0.999},
            "method.t2.mask.ratio=0.999: hides all of 196 blocks: expected",
        ),
    ],
}

ACCEPTED: list[tuple[str, Overrides]] = [
    ("mae", {"method.t1.mask": "none"}),
    ("mae", {"method.t1.mask.ratio": 0.9}),
    ("mae", {"method.t2.mask": "none"}),
    ("mae", {"encoder": "resnet-micro"}),
    ("mae", {"encoder": "resnet-micro", "method.encoder.hidden": "add"}),
    ("mae", {"method.encoder.hidden": "replace", "method.measure.head": "linear"}),
    ("mae", {"method.shared.cutmix": "on"}),
    ("mae", {"method.shared.colour": "on", "method.shared.colour.blur": 0.5}),
    ("mae", CHANNELS_OF_ONE),
    ("rmae", {"method.symmetric": True}),
    ("rmae", {"method.target": "ema"}),
    ("rmae", {"method.target": "ema", "method.symmetric": True}),
    ("rmae", {"method.encoder.hidden": "add", "method.t1.fill": "mean", "method.t2.fill": "mean"}),
    ("rmae_25", {"method.symmetric": True}),
    ("cmae", {"method.measure.by": "class", "method.encoder.hidden": "drop"}),
    ("cmae", {"method.measure.by": "mean", "method.encoder.hidden": "drop"}),
    ("cmae", {"method.encoder.hidden": "drop", "method.t2.mask": "none"}),
    ("cmae", {"method.encoder.hidden": "drop", "method.t2.mask": "random"}),
    ("cmae", {"method.t1.mask": "none"}),
    ("cmae", {"method.target": "twin", "method.symmetric": True}),
    ("cmae", {"method.shared.cutmix": "on"}),
    ("cmae", {"encoder": "resnet-micro"}),
    ("cmae", {"method.encoder.hidden": "drop", "method.t1.mask.ratio": 0}),
    ("cmae_class", {"method.crops": 2, "method.t2.mask": "random"}),
    ("mae", {"method.measure.head": "linear", "method.t1.mask": "none"}),
    ("mae", {"method.measure.head": "linear", "method.t1.mask.ratio": 0}),
    ("rmae", SECOND_ALONE),
    ("rmae", {**SECOND_ALONE, "method.measure.separate": True}),
    ("rmae", {"method.t1.mask": "none", "method.t1.colour": "on"}),
    ("rmae", {"encoder": "resnet-micro", "method.measure.head": "linear"}),
    ("simmim", {"method.encoder.at": 3}),
    ("simmim", {"method.encoder.at": 3, "method.t1.fill": "mean"}),
    ("a2mim", {"method.encoder.hidden": "replace"}),
    ("a2mim", {"method.t1.fill": "none"}),
    ("a2mim_r50", {"encoder": "resnet-micro", "method.encoder.at": 4}),
    ("mocov3", {"method.symmetric": False, "method.crops": 1}),
    ("supervised", {"method.shared.cutmix": "none"}),
    ("supervised", {"method.t1.mask": "random"}),
]


@pytest.mark.parametrize(
    ("name", "overrides", "words"),
    [case for cases in REFUSED.values() for case in cases],
    ids=lambda value: value if isinstance(value, str) and " " not in value else "",
)
def test_what_means_nothing_is_refused_by_its_path_with_a_way_out(
    name: str, overrides: Overrides, words: str
) -> None:
    with pytest.raises(Mistake) as refusal:
        resolved(name, overrides)
    assert str(refusal.value).startswith(words)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("name", "overrides", "way_out"),
    [
        ("mae", {"method.measure.head": "linear"}, {"method.encoder.hidden": "replace"}),
        ("rmae", {"method.measure.head": "linear"}, {"method.encoder.hidden": "add"}),
        ("cmae", {"method.encoder.hidden": "drop"}, {"method.t2.mask": "none"}),
        ("cmae", {"method.encoder.hidden": "drop"}, {"method.measure.by": "mean"}),
        ("cmae", {"method.encoder.hidden": "drop"}, {"method.measure.by": "class"}),
        ("cmae", {"method.t1.mask": "complement"}, {"method.t1.mask": "none"}),
        ("rmae_0", {"method.symmetric": True}, {"method.t2.mask": "random"}),
        ("mae", {"method.t1.fill": "mean"}, {"method.encoder.hidden": "replace"}),
        ("mae", {"method.target": "twin"}, {"method.measure": "relax"}),
        ("mae", {"method.t2.colour": "on"}, {"method.t2.colour": "none", "method.shared.colour": "on"}),
        ("supervised", {"method.t2.mask": "random"}, {"method.t2.mask": "none", "method.t1.mask": "random"}),
        ("rmae", {"method.t1.mask": "none"}, {"method.t2.mask": "random"}),
        ("mocov3", {"method.t2.mask": "complement"}, {"method.t2.mask": "random"}),
        ("cmae_class", {"method.crops": 2}, {"method.t2.mask": "none"}),
        ("mae", {"method.measure.head.heads": 7}, {"method.measure.head.heads": 8}),
        ("mae", {"method.measure.head.width": 510}, {"method.measure.head.width": 512}),
        ("cmae_byol", {"method.measure.negatives": "all"}, {"method.measure.loss": "infonce"}),
        ("mae", {**CHANNELS_OF_ONE, "method.encoder.patch": 1}, {"method.measure.normalise": False}),
        ("mae", {**CHANNELS_OF_ONE, "method.encoder.patch": 1}, {"method.encoder.patch": 2}),
    ],
)
def test_the_way_out_leads_out(name: str, overrides: Overrides, way_out: Overrides) -> None:
    with pytest.raises(Mistake):
        resolved(name, overrides)
    resolved(name, {**overrides, **way_out})


def test_every_measurement_and_target_has_its_words() -> None:
    assert set(get_args(get_args(Measure)[0])) == TARGETS.keys()
    assert set(get_args(get_args(Target)[0])) == WORDS.keys()


def stepped(name: str, overrides: Overrides) -> None:
    """One step on small pictures: the loss is finite and every weight that is trained gets a gradient."""
    torch.manual_seed(0)
    run = resolved(name, {"encoder": "micro", **overrides})
    model = run.method.build((32, 32), seed=0)
    model(tuple(CROPS[: run.method.crops]), POSITION, LABELS).loss.backward()
    trained = {name: weight.grad for name, weight in model.named_parameters() if weight.requires_grad}
    assert not [name for name, slope in trained.items() if slope is None or not slope.isfinite().all()]


def shortly(value: str | Overrides) -> str:
    return value if isinstance(value, str) else " ".join(f"{path}={one}" for path, one in value.items())


@pytest.mark.parametrize(("name", "overrides"), ACCEPTED, ids=shortly)
def test_what_means_something_is_accepted_and_takes_a_step(name: str, overrides: Overrides) -> None:
    stepped(name, overrides)


@pytest.mark.parametrize("name", ["mae", "rmae_25", "cmae", "simmim"])
def test_a_ratio_of_zero_is_no_mask(name: str) -> None:
    """No weight is made for patches that are never hidden: DDP would wait for its gradient."""
    stepped(name, {"method.t1.mask.ratio": 0})


@pytest.mark.parametrize(
    ("name", "overrides"),
    [
        ("cmae", {}),
        ("cmae", {"encoder": "resnet-micro"}),
        ("cmae_no_mask_token", {}),
        ("rmae", {}),
        ("rmae", {"method.symmetric": True}),
    ],
    ids=shortly,
)
def test_the_second_view_may_hide_alone_or_is_refused(name: str, overrides: Overrides) -> None:
    try:
        resolved(name, {"encoder": "micro", **overrides, **SECOND_ALONE})
    except Mistake:
        return
    stepped(name, {**overrides, **SECOND_ALONE})


@pytest.mark.parametrize(
    ("name", "count", "words"),
    [
        ("mae", 2, "method.crops=1: 2 windows of each picture came: expected 1"),
        ("rmae", 0, "method.crops=1: 0 windows of each picture came: expected 1"),
        ("mocov3", 1, "method.crops=2: 1 windows of each picture came: expected 2"),
    ],
)
def test_another_number_of_windows_is_refused(name: str, count: int, words: str) -> None:
    model = resolved(name, {"encoder": "micro"}).method.build((32, 32))
    with pytest.raises(Mistake) as refusal:
        model(tuple(CROPS[:count]), POSITION)
    assert str(refusal.value) == words


@pytest.mark.parametrize("encoder", ["micro", "resnet-micro"])
@pytest.mark.parametrize("size", [(32, 64), (64, 32), (16, 32)])
def test_pictures_of_another_size_are_refused(encoder: str, size: tuple[int, int]) -> None:
    """Else the first half of a wide picture's patches would be all that is scored."""
    model = resolved("mocov3", {"encoder": encoder}).method.build((32, 32))
    with pytest.raises(Mistake) as refusal:
        model((CROPS[0], torch.zeros(IMAGES, 3, *size, dtype=torch.uint8)), POSITION)
    came = f"{size[0]} × {size[1]}"
    assert str(refusal.value) == f"data.crop.size=32,32: pictures of {came} came: expected 32 × 32"


@pytest.mark.parametrize("word", ["resnet-micro", "resnet18", "convnext_tiny"])
@pytest.mark.parametrize(
    ("name", "overrides", "fills"),
    [
        ("mae", {}, ("mean", "none")),
        ("mae", {"method.encoder.hidden": "add"}, ("mean", "none")),
        ("mae", {"method.t1.mask": "none"}, ("none", "none")),
        ("mae", {"method.t1.fill": "none"}, ("none", "none")),
        ("a2mim_code", {}, ("picture_mean", "none")),
        ("rmae", {}, ("mean", "mean")),
        ("rmae", {"method.t2.fill": "picture_mean"}, ("mean", "picture_mean")),
        ("rmae_0", {}, ("mean", "none")),
        ("cmae", {}, ("mean", "mean")),
        ("supervised", {"method.t1.mask": "random"}, ("mean", "none")),
    ],
)
def test_a_backbone_comes_with_a_fill_where_pixels_are_hidden(
    name: str, overrides: Overrides, fills: tuple[str, str], word: str
) -> None:
    method = resolved(name, {"encoder": word, **overrides}).method
    assert (method.t1.fill, method.t2.fill) == fills


def test_what_a_user_says_outweighs_what_an_encoder_word_implies() -> None:
    assert resolved("simmim", {"encoder": "micro", "method.t1.mask": "none"}).method.t1.mask is None
    measure = resolved("cmae", {"encoder": "micro", "method.measure.predictor": "none"}).method.measure
    assert isinstance(measure, Contrast)
    assert measure.predictor is None


@pytest.mark.parametrize("word", ["micro", "small"])
def test_an_encoder_word_keeps_the_published_place_of_the_token(word: str) -> None:
    """The published code adds it to the patch embedding; only a place that the size sets may move."""
    method = resolved("a2mim_code", {"encoder": word}).method
    assert method.encoder.entry == resolved("a2mim_code", {}).method.encoder.entry == 0


@pytest.mark.parametrize("name", METHODS)
def test_every_method_opens_with_what_it_is_and_is_a_sentence_of_its_own(name: str) -> None:
    run = METHODS[name]()
    assert METHODS[name].__doc__
    assert run == resolved(name, {}) == resolve(Run(), flatten(run))
    run.method.fits(run.data.crop.size)
