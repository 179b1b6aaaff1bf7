"""Overrides over small specs: what goes in comes back, in any order, or is refused in one line."""

from collections.abc import Mapping
from itertools import permutations
from pathlib import Path
from typing import Annotated, Literal

import pytest
from pydantic import Field, PositiveFloat, PositiveInt, ValidationError, field_validator, model_validator

from mim_ray.config import Spec, changed, describe, flatten, parse, paths, resolve
from mim_ray.errors import Mistake


class Grid(Spec):
    rows: int = Field(2, ge=1)
    cells: tuple[int, ...] = (1, 2)


class Noise(Spec):
    kind: Literal["noise"] = "noise"
    seed: int = 0


class Blue(Spec):
    kind: Literal["blue"] = "blue"
    seed: int = 0
    grain: float = 0.5


class Random(Spec):
    kind: Literal["random"] = "random"
    ratio: float = Field(0.75, ge=0, lt=1, description="share of hidden patches")
    share: float = 0.9
    source: Noise | Blue = Noise()


class Block(Spec):
    kind: Literal["block"] = "block"
    ratio: float = Field(0.6, ge=0, lt=1)
    share: float = Field(0.1, le=0.5)
    size: int = Field(32, description="side of a block")
    source: Noise | Blue | None = None
    grid: Grid = Grid(rows=3)

    @model_validator(mode="after")
    def _leaves_room(self) -> "Block":
        if self.ratio > 0.9 and self.size > 16:
            raise ValueError("a ratio above 0.9\nneeds a size of at most 16")
        if self.size < 2:
            raise ValueError(f"size={self.size}: expected at least 2")
        return self


class Mixed(Spec):
    kind: Literal["mixed"] = "mixed"
    parts: int


class Jitter(Spec):
    hue: float = 0.2
    scale: tuple[float, float] = (0.2, 1.0)


class Transform(Spec):
    mask: Random | Block = Random()
    second: Annotated[Random | Block | Mixed, Field(discriminator="kind")] | None = None
    colour: Jitter | None = Field(None, description="colour jitter, or none")


class Method(Spec):
    t1: Transform = Transform()
    t2: Transform = Transform(mask=Block())
    crops: Literal[1, 2] = 1
    loss: Literal["l1", "l2", "smooth", "none"] = "l2"


class Run(Spec):
    seed: int = Field(0, description="of everything random")
    epochs: int = Field(10, ge=1)
    name: str = "run"
    note: str | None = None
    out: Path = Path("runs")
    start: Path | None = None
    fast: bool = False
    steps: int | None = Field(None, gt=0)
    betas: tuple[float, float] = (0.9, 0.95)
    widths: tuple[int, ...] = ()
    tags: tuple[str, ...] = ()
    sides: tuple[Literal[1, 2], ...] = (1,)
    clip: tuple[float, float] | None = None
    word: str = Field("abc", min_length=1, pattern="^[a-z, ]+$")
    some: tuple[PositiveInt, ...] = Field((1,), min_length=1)
    rates: tuple[PositiveFloat, ...] = Field((0.1,), min_length=1)
    method: Method = Method()

    @field_validator("epochs")
    @classmethod
    def _is_not_unlucky(cls, epochs: int) -> int:
        if epochs == 13:
            raise ValueError("13 epochs are unlucky")
        return epochs


T1 = "method.t1"

SETTINGS: list[dict[str, object]] = [
    {},
    {"seed": "7", "epochs": "3", "fast": "true", "steps": "5"},
    {"seed": 7, "fast": True, "steps": None, "betas": (0.2, 1.0), "widths": [1, 2, 3]},
    {"betas": "0.2,1.0", "widths": "", "clip": "0,1"},
    {"widths": "64", "sides": "1,2,1", "clip": None},
    {"method.t1.mask": "block", "method.t1.mask.ratio": "0.3", "method.t1.mask.grid.cells": ""},
    {"method.t1.mask": Block(ratio=0.95, size=8), "method.t1.mask.source": "blue"},
    {"method.t1.colour": "on"},
    {"method.t1.colour.hue": 0.1, "method.t2.second": "mixed", "method.t2.second.parts": 3},
    {"method.t1": Transform(mask=Block(source=Blue(grain=1e-7)), colour=Jitter(hue=1e308))},
    {"method": Method(loss="none"), "method.t2.second": "random", "method.t2.second.source.seed": 4},
    {"method.crops": 2, "method.loss": "smooth", "start": "last.pt", "out": Path("a,b")},
]

ODD_WORDS = [
    "",
    " ",
    "none",
    r"\none",
    r"\\none",
    "a,b",
    "a = b",
    ",",
    '"',
    '"x"',
    "a\nb\r",
    "on",
    "é ☃",
    "[1]",
]


def same_after_flattening(start: Run, spec: Run) -> bool:
    return resolve(start, flatten(spec)) == spec


def refusal(overrides: Mapping[str, object], start: Run | None = None) -> str:
    with pytest.raises(Mistake) as caught:
        resolve(start or Run(), overrides)
    message = str(caught.value)
    assert "\n" not in message
    return message


# Round trips.


@pytest.mark.parametrize("settings", SETTINGS)
def test_flattened_spec_resolves_to_itself_from_any_start(settings: dict[str, object]) -> None:
    spec = resolve(Run(), settings)
    for start in (resolve(Run(), other) for other in SETTINGS):
        assert same_after_flattening(start, spec)


@pytest.mark.parametrize("settings", SETTINGS)
def test_changed_suffices_and_nothing_in_it_is_spare(settings: dict[str, object]) -> None:
    spec = resolve(Run(), settings)
    for start in (resolve(Run(), other) for other in SETTINGS):
        needed = changed(start, spec)
        assert needed.items() <= flatten(spec).items()
        assert resolve(start, needed) == spec
        for path in needed:
            fewer = {other: text for other, text in needed.items() if other != path}
            try:
                assert resolve(start, fewer) != spec
            except Mistake:
                continue


@pytest.mark.parametrize("word", ODD_WORDS)
def test_odd_strings_round_trip(word: str) -> None:
    for spec in (
        Run(name=word),
        Run(note=word),
        Run(out=Path(word)),
        Run(start=Path(word)),
        Run(tags=(word,)),
        Run(tags=(word, "x", word)),
    ):
        assert same_after_flattening(Run(name="y", note="y", tags=("y", "y")), spec)
        assert resolve(Run(), parse([f"{path}={text}" for path, text in flatten(spec).items()])) == spec


def test_none_means_absent_only_where_absence_is_possible() -> None:
    spec = resolve(Run(), {"name": "none", "note": "none", "method.loss": "none"})
    assert (spec.name, spec.note, spec.method.loss) == ("none", None, "none")
    assert resolve(Run(), {"note": r"\none"}).note == "none"


def test_flatten_writes_words_then_leaves_in_declaration_order() -> None:
    spec = Transform(second=Block(source=Blue(), ratio=0.5), colour=Jitter())
    assert list(flatten(spec).items()) == [
        ("mask", "random"),
        ("mask.ratio", "0.75"),
        ("mask.share", "0.9"),
        ("mask.source", "noise"),
        ("mask.source.seed", "0"),
        ("second", "block"),
        ("second.ratio", "0.5"),
        ("second.share", "0.1"),
        ("second.size", "32"),
        ("second.source", "blue"),
        ("second.source.seed", "0"),
        ("second.source.grain", "0.5"),
        ("second.grid.rows", "3"),
        ("second.grid.cells", "1,2"),
        ("colour", "on"),
        ("colour.hue", "0.2"),
        ("colour.scale", "0.2,1.0"),
    ]


def test_flatten_writes_each_sort_of_leaf() -> None:
    flat = flatten(Run(fast=True, tags=("a,b", ""), start=Path("x/y")))
    assert flat["fast"] == "true"
    assert flat["steps"] == flat["clip"] == flat["method.t1.colour"] == flat["method.t1.second"] == "none"
    assert flat["betas"] == "0.9,0.95"
    assert flat["widths"] == ""
    assert flat["tags"] == '"a,b",'
    assert flat["start"] == "x/y"
    assert flat["method.crops"] == "1"
    assert "method" not in flat
    assert "method.t1" not in flat


# Resolving.


def test_text_and_python_values_mean_the_same() -> None:
    text = {"seed": "4", "fast": "true", "steps": "none", "betas": "0.2,1.0", "method.t1.mask.ratio": "0.1"}
    typed = {"seed": 4, "fast": True, "steps": None, "betas": (0.2, 1.0), "method.t1.mask.ratio": 0.1}
    assert resolve(Run(steps=3), text) == resolve(Run(steps=3), typed)


def test_pydantic_casts() -> None:
    assert resolve(Run(), {"seed": "1_000"}).seed == 1000
    assert resolve(Run(), {"fast": "yes"}).fast is True
    assert resolve(Run(), {"betas": "0, 1e-3"}).betas == (0.0, 0.001)
    assert resolve(Run(), {"out": "a/b"}).out == Path("a/b")


def test_overrides_work_in_any_order() -> None:
    overrides = {
        f"{T1}.mask": "block",
        f"{T1}.mask.ratio": 0.95,
        f"{T1}.mask.size": 8,
        f"{T1}.mask.source": "blue",
        f"{T1}.mask.source.grain": "1.5",
    }
    expected = Block(ratio=0.95, size=8, source=Blue(grain=1.5), share=0.1)
    for order in permutations(overrides.items()):
        assert resolve(Run(), dict(order)).method.t1.mask == expected


def test_a_ready_spec_is_taken_whole_and_then_edited() -> None:
    overrides = {
        f"{T1}.mask.ratio": "0.2",
        f"{T1}.mask": Block(size=4),
        T1: Transform(colour=Jitter(hue=0.0)),
    }
    assert resolve(Run(), overrides).method.t1 == Transform(mask=Block(size=4, ratio=0.2), colour=Jitter(hue=0.0))


def test_another_kind_keeps_what_it_shares_where_it_fits() -> None:
    start = Transform(mask=Random(ratio=0.3, share=0.9, source=Blue(seed=5)))
    assert resolve(start, {"mask": "block"}).mask == Block(ratio=0.3, share=0.1, source=Blue(seed=5))


def test_what_is_shared_gives_way_to_a_rule_across_fields() -> None:
    start = Transform(mask=Random(ratio=0.95))
    assert resolve(start, {"mask": "block"}).mask == Block()
    assert resolve(start, {"mask": "block", "mask.size": 8}).mask == Block(ratio=0.95, size=8, source=Noise())


def test_what_is_shared_never_excuses_what_was_asked() -> None:
    with pytest.raises(Mistake, match=r"^second.share=0.7: expected a number less than or equal to 0.5$"):
        resolve(Transform(second=Random(ratio=0.3)), {"second": "block", "second.share": "0.7"})


def test_choosing_what_is_there_changes_nothing() -> None:
    start = Transform(mask=Random(ratio=0.3), colour=Jitter(hue=0.1))
    assert resolve(start, {"mask": "random", "colour": "on"}) == start


def test_the_default_of_a_new_member_can_be_edited() -> None:
    mask = resolve(Transform(), {"mask": "block", "mask.grid.cells": "7"}).mask
    assert mask == Block(ratio=0.75, source=Noise(), grid=Grid(rows=3, cells=(7,)))


def test_a_new_member_takes_its_required_fields_from_longer_paths() -> None:
    assert resolve(Transform(), {"second.parts": 3, "second": "mixed"}).second == Mixed(parts=3)


def test_an_absent_optional_turns_on_by_word_or_by_a_field() -> None:
    assert resolve(Transform(), {"colour": "on"}).colour == Jitter()
    assert resolve(Transform(), {"colour.hue": "0.1"}).colour == Jitter(hue=0.1)
    assert resolve(Transform(), {"colour.hue": "0.1", "colour": "none"}).colour == Jitter(hue=0.1)
    assert resolve(Transform(colour=Jitter()), {"colour": "none"}).colour is None
    assert resolve(Transform(colour=Jitter()), {"colour": None}).colour is None


def test_resolving_leaves_the_start_alone() -> None:
    start = Run()
    before = flatten(start)
    resolve(start, {"seed": 1, f"{T1}.mask": "block", f"{T1}.colour.hue": 0.3})
    refusal({"seed": 1, "epochs": 0}, start)
    assert flatten(start) == before


def test_specs_are_frozen_and_closed() -> None:
    with pytest.raises(ValidationError):
        Run().seed = 1  # type: ignore[misc]
    with pytest.raises(ValidationError):
        Run.model_validate({"sede": 1})


# Refusals.


@pytest.mark.parametrize(
    ("path", "message"),
    [
        (
            "method.t1.mask.raito",
            "no field 'method.t1.mask.raito': did you mean 'method.t1.mask.ratio'?",
        ),
        ("method.t1.mask.sise", "no field 'method.t1.mask.sise': did you mean 'method.t1.mask.size'?"),
        ("method.t1.colour.hve", "no field 'method.t1.colour.hve': did you mean 'method.t1.colour.hue'?"),
        ("mehtod.t1.mask.ratio", "no field 'mehtod.t1.mask.ratio': did you mean 'method.t1.mask.ratio'?"),
        ("hue", "no field 'hue': did you mean 'method.t1.colour.hue'?"),
        (
            "method.t1.zzz",
            "no field 'method.t1.zzz': choose from method.t1.mask, method.t1.second, method.t1.colour",
        ),
        (
            "method.zzz.qqq",
            "no field 'method.zzz.qqq': choose from method.t1, method.t2, method.crops, method.loss",
        ),
        ("seed.x", "no field 'seed.x': 'seed' has no fields"),
        (
            "method.t1.mask.ratio.low",
            "no field 'method.t1.mask.ratio.low': 'method.t1.mask.ratio' has no fields",
        ),
    ],
)
def test_unknown_paths(path: str, message: str) -> None:
    assert refusal({path: "1"}) == message


def test_an_unknown_path_at_the_top_lists_the_top() -> None:
    with pytest.raises(Mistake, match=r"^no field 'zzz': choose from mask, second, colour$"):
        resolve(Transform(), {"zzz": 1})


def test_a_field_of_another_kind_names_its_kinds() -> None:
    assert refusal({"method.t1.mask.size": 3}) == (
        "'method.t1.mask.size' belongs to method.t1.mask=block, not to method.t1.mask=random"
    )
    assert refusal({"method.t1.mask.source.grain": 3}) == (
        "'method.t1.mask.source.grain' belongs to method.t1.mask.source=blue, not to method.t1.mask.source=noise"
    )
    assert refusal({"method.t1.second.ratio": 0.5}) == (
        "'method.t1.second.ratio' belongs to method.t1.second=random or method.t1.second=block, "
        "not to method.t1.second=none"
    )


@pytest.mark.parametrize(
    ("path", "value", "complaint"),
    [
        ("method.t1.mask.ratio", "1.5", "1.5: expected a number less than 1"),
        ("method.t1.mask.ratio", 1.5, "1.5: expected a number less than 1"),
        ("method.t1.mask.ratio", "much", "much: expected a number"),
        ("method.t1.mask.ratio", None, "none: expected a number"),
        ("epochs", "0", "0: expected an integer greater than or equal to 1"),
        ("epochs", "1.5", "1.5: expected an integer"),
        ("epochs", 1.5, "1.5: expected an integer"),
        ("epochs", "13", "13: 13 epochs are unlucky"),
        ("steps", "-1", "-1: expected an integer greater than 0"),
        ("fast", "perhaps", "perhaps: expected true or false"),
        ("name", 3, "3: expected a string"),
        ("out", 3, "3: expected a path"),
        ("word", "", ": expected a string with at least 1 character"),
        ("word", "a\nB", "a B: expected a string that matches pattern '^[a-z, ]+$'"),
        ("betas", "0.1", "0.1: expected 2 values separated by commas"),
        ("betas", "0.1,0.2,0.3", "0.1,0.2,0.3: expected at most 2 values separated by commas"),
        ("betas", (0.1, "x"), "0.1,x: expected numbers separated by commas"),
        ("betas", 3, "3: expected values separated by commas"),
        ("some", "", ": expected at least 1 values separated by commas"),
        ("some", "-3", "-3: expected integers greater than 0, separated by commas"),
        ("some", "-3,0", "-3,0: expected integers greater than 0, separated by commas"),
        ("some", "5,-3", "5,-3: expected integers greater than 0, separated by commas"),
        ("some", "x", "x: expected integers separated by commas"),
        ("rates", "0", "0: expected numbers greater than 0, separated by commas"),
        ("sides", "1,3", "1,3: expected 1 or 2"),
        ("method.crops", 3, "3: expected 1 or 2"),
        ("method.loss", "smoth", "smoth: expected l1, l2, smooth or none: did you mean 'smooth'?"),
        ("method.t1.mask", "blok", "blok: expected random or block: did you mean 'block'?"),
        ("method.t1.mask", None, "none: expected random or block"),
        ("method.t1.second", "zzz", "zzz: expected random, block, mixed or none"),
        ("method.t1.colour", "off", "off: expected on or none"),
        ("method.t1.colour", Noise(), "Noise(kind='noise', seed=0): expected on or none"),
        (
            "method.t1",
            "mae",
            "mae: set its fields instead: method.t1.mask, method.t1.second, method.t1.colour",
        ),
    ],
)
def test_bad_values(path: str, value: object, complaint: str) -> None:
    assert refusal({path: value}) == f"{path}={complaint}"


def test_a_rule_across_fields_speaks_for_itself() -> None:
    start = resolve(Run(), {"method.t1.mask": "block"})
    assert refusal({"method.t1.mask.ratio": 0.95}, start) == "a ratio above 0.9 needs a size of at most 16"


def test_a_rule_that_begins_with_a_field_gets_the_path_above_it() -> None:
    start = resolve(Run(), {"method.t1.mask": "block"})
    assert refusal({"method.t1.mask.size": 1}, start) == "method.t1.mask.size=1: expected at least 2"
    with pytest.raises(Mistake, match=r"^size=1: expected at least 2$"):
        resolve(Block(), {"size": 1})


def test_a_required_field_that_nobody_gave() -> None:
    assert refusal({"method.t1.second": "mixed"}) == "method.t1.second.parts: expected a value"


# Words, paths, descriptions, differences.


def test_parse_splits_at_the_first_equals_sign() -> None:
    assert parse(["a.b=1", "c=x=y", "d="]) == {"a.b": "1", "c": "x=y", "d": ""}
    assert parse([]) == {}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["a=1", "seed"], "'seed' is not of the form path=value"),
        (["=1"], "'=1' is not of the form path=value"),
        (["a=1", "b=2", "a=3"], "'a' is given twice: '1' and '3'"),
    ],
)
def test_parse_refuses(words: list[str], message: str) -> None:
    with pytest.raises(Mistake) as caught:
        parse(words)
    assert str(caught.value) == message


def test_paths_reach_every_kind_and_absent_optionals_once() -> None:
    assert paths(Transform) == [
        "mask",
        "mask.ratio",
        "mask.share",
        "mask.source",
        "mask.source.seed",
        "mask.source.grain",
        "mask.size",
        "mask.grid.rows",
        "mask.grid.cells",
        "second",
        "second.ratio",
        "second.share",
        "second.source",
        "second.source.seed",
        "second.source.grain",
        "second.size",
        "second.grid.rows",
        "second.grid.cells",
        "second.parts",
        "colour",
        "colour.hue",
        "colour.scale",
    ]


@pytest.mark.parametrize("settings", SETTINGS)
def test_whatever_is_flattened_is_among_the_paths(settings: dict[str, object]) -> None:
    assert flatten(resolve(Run(), settings)).keys() <= set(paths(Run))


def test_describe_gives_the_described_paths_alone() -> None:
    assert describe(Transform) == {
        "mask.ratio": "share of hidden patches",
        "mask.size": "side of a block",
        "second.ratio": "share of hidden patches",
        "second.size": "side of a block",
        "colour": "colour jitter, or none",
    }


def test_changed_is_what_a_person_would_type() -> None:
    start = Transform()
    assert changed(start, start) == {}
    assert changed(start, Transform(mask=Random(ratio=0.5))) == {"mask.ratio": "0.5"}
    assert changed(start, Transform(mask=Block(ratio=0.75, source=Noise()))) == {"mask": "block"}
    assert changed(start, Transform(colour=Jitter())) == {"colour": "on"}
    assert changed(start, Transform(colour=Jitter(hue=0.1))) == {"colour.hue": "0.1"}
    assert changed(Transform(colour=Jitter()), start) == {"colour": "none"}
