"""Subsets: exact, repeatable, nested, stratified, and with spares for what turns out unusable."""

from typing import Any

import numpy as np
import pytest

from mim_ray.config import resolve
from mim_ray.data.subset import Choice, Subset, choose
from mim_ray.errors import Mistake

CLASSES = ("cat", "dog", "owl")
LABELS = np.repeat(np.arange(3), [50, 30, 20])[np.random.default_rng(0).permutation(100)]


def chosen(seed: int = 0, **subset: Any) -> Choice:
    return choose(Subset(**subset), LABELS, CLASSES, len(LABELS), seed)


def samples(seed: int = 0, **subset: Any) -> set[int]:
    drawn = chosen(seed, **subset).chosen.tolist()
    assert len(drawn) == len(set(drawn))
    return set(drawn)


def counts(**subset: Any) -> list[int]:
    labels = LABELS[list(samples(**subset))].tolist()
    return [labels.count(label) for label in range(3)]


def test_without_a_wish_everything_is_taken() -> None:
    assert samples() == set(range(100))
    assert not chosen().exact


@pytest.mark.parametrize("n", [1, 10, 100])
def test_n_images_are_n_images(n: int) -> None:
    assert len(samples(n=n)) == n


def test_a_smaller_n_lies_within_a_larger_one() -> None:
    assert samples(n=5) < samples(n=10) < samples(n=99)
    assert samples(per_class=2) < samples(per_class=20)
    assert samples(per_class=1, n=1) < samples(per_class=1, n=2) < samples(per_class=1)
    assert samples(one_class="dog", n=5) < samples(one_class="dog", n=10) < samples(one_class="dog")


def test_each_class_has_as_many_as_asked_for() -> None:
    assert counts(per_class=20) == [20, 20, 20]
    assert sorted(counts(per_class=1, n=2)) == [0, 1, 1]
    assert counts(one_class="owl") == [0, 0, 20]
    assert counts(one_class="owl", n=3) == [0, 0, 3]
    assert counts(one_class="owl", per_class=3) == [0, 0, 3]
    assert counts(one_class="owl", fraction=0.25) == [0, 0, 5]


@pytest.mark.parametrize(
    ("fraction", "expected"),
    [(0.1, [5, 3, 2]), (0.29, [15, 9, 6]), (0.5, [25, 15, 10]), (1.0, [50, 30, 20]), (0.001, [1, 1, 1])],
)
def test_a_fraction_is_that_of_every_class_and_of_the_whole(fraction: float, expected: list[int]) -> None:
    drawn = counts(fraction=fraction)
    assert np.abs(np.array(drawn) - expected).max() <= 1
    assert sum(drawn) == max(3, round(100 * fraction))


def test_ten_percent_of_a_set_without_labels_is_ten_percent() -> None:
    assert len(choose(Subset(fraction=0.1), None, (), 1797, seed=0).chosen) == 180


def test_the_seed_decides_and_nothing_else() -> None:
    assert samples(n=10) == samples(n=10)
    assert samples(n=10) != samples(1, n=10)


def test_the_draw_is_the_same_on_every_machine() -> None:
    assert sorted(samples(n=5)) == [0, 13, 34, 44, 64]


def test_spares_come_from_where_the_unusable_image_came_from() -> None:
    drawn = chosen(per_class=15)
    for sample in drawn.chosen.tolist():
        spare = drawn.spare_for(sample)
        if spare is not None:
            assert spare not in drawn.chosen
            assert LABELS[spare] == LABELS[sample]
    owl = next(sample for sample in drawn.chosen.tolist() if LABELS[sample] == 2)
    assert drawn.spare_for(owl) is None, "15 of 20 owls were chosen, and the 5 others are used up"


def test_with_n_any_image_may_stand_in_and_keeps_sets_nested() -> None:
    drawn = chosen(n=10)
    assert drawn.spare_for(int(drawn.chosen[0])) in samples(n=11)


def test_without_a_number_nothing_is_replaced() -> None:
    drawn = chosen(one_class="cat")
    assert drawn.spare_for(int(drawn.chosen[0])) is None


@pytest.mark.parametrize(
    ("subset", "message"),
    [
        ({"n": 5, "fraction": 0.1}, "n and fraction cannot be asked for together: choose one"),
        ({"n": 101}, "n=101: the source has 100 images to draw from"),
        ({"one_class": "dog", "n": 31}, "n=31: the source has 30 images to draw from"),
        ({"n": 4, "per_class": 1}, "n=4: the source has 3 images to draw from"),
        ({"per_class": 21}, "per_class=21: class 'owl' has 20 images"),
        ({"one_class": "dgo"}, "one_class=dgo: no class of that name: did you mean 'dog'"),
    ],
)
def test_what_cannot_be_is_refused_in_words(subset: dict[str, Any], message: str) -> None:
    with pytest.raises(Mistake, match=message):
        chosen(**subset)


def test_a_number_is_no_misspelling_of_another() -> None:
    for count, choices in ((11, "0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10"), (30, "0, 1, .*, 19, …")):
        classes = tuple(map(str, range(count)))
        with pytest.raises(Mistake, match=rf"^one_class=32: no class of that name: choose from {choices}$"):
            choose(Subset(one_class="32"), np.arange(count), classes, count, seed=0)


@pytest.mark.parametrize("wish", [{"per_class": 3}, {"one_class": "cat"}])
def test_classes_need_labels(wish: dict[str, Any]) -> None:
    with pytest.raises(Mistake, match=f"{next(iter(wish))}= needs labels, and this source has none"):
        choose(Subset(**wish), None, (), 10, seed=0)


def test_a_class_without_images_and_a_source_without_any_are_refused() -> None:
    with pytest.raises(Mistake, match="the source has no images of class 'elk'"):
        choose(Subset(one_class="elk"), LABELS, (*CLASSES, "elk"), len(LABELS), seed=0)
    with pytest.raises(Mistake, match=r"the source has no images$"):
        choose(Subset(), None, (), 0, seed=0)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ({"n": "0"}, "n=0: expected an integer greater than 0"),
        ({"n": "ten"}, "n=ten: expected an integer"),
        ({"fraction": "1.5"}, "fraction=1.5: expected a number less than or equal to 1"),
        ({"fraction": "0"}, "fraction=0: expected a number greater than 0"),
        ({"perclass": "3"}, "no field 'perclass': did you mean 'per_class'"),
    ],
)
def test_options_are_refused_before_anything_starts(override: dict[str, str], message: str) -> None:
    with pytest.raises(Mistake, match=message):
        resolve(Subset(), override)
