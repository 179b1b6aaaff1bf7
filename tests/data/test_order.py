"""The sample order: no repeats, no drops, any restart, any world."""

from typing import Any

import numpy as np
import pytest

from mim_ray.data import order as order_module
from mim_ray.data.order import Order
from mim_ray.draws import Purpose, permutation
from mim_ray.errors import Mistake


def seen(order: Order, start: int, stop: int, world: int = 1) -> list[int]:
    shares = [order.share(step, rank, world)[1] for step in range(start, stop) for rank in range(world)]
    return [int(sample) for share in shares for sample in share]


def test_an_epoch_shows_every_sample_once_but_for_the_ragged_tail() -> None:
    order = Order(samples=103, batch=10, seed=5)
    epoch = seen(order, 0, order.steps_per_epoch)
    assert order.steps_per_epoch == 10
    assert len(set(epoch)) == len(epoch) == 100


def test_epochs_and_seeds_differ() -> None:
    order = Order(samples=64, batch=8, seed=1)
    first, second = seen(order, 0, 8), seen(order, 8, 16)
    assert sorted(first) == sorted(second) == list(range(64))
    assert first != second
    assert first != seen(Order(samples=64, batch=8, seed=2), 0, 8)


@pytest.mark.parametrize("world", [1, 2, 3, 5])
def test_any_world_sees_the_same_global_batches(world: int) -> None:
    order = Order(samples=50, batch=8, seed=3)
    for step in (0, 4, 6, 13):
        assert seen(order, step, step + 1, world) == seen(order, step, step + 1)


def test_the_tail_is_kept_and_shared_out_in_evaluation() -> None:
    order = Order(samples=10, batch=4, shuffle=False, keep_tail=True)
    assert order.steps_per_epoch == 3
    assert seen(order, 0, 3, world=3) == list(range(10))
    assert [len(order.share(2, rank, 3)[1]) for rank in range(3)] == [0, 1, 1]


def test_virtual_epochs_repeat_every_image_equally_often() -> None:
    order = Order(samples=7, batch=4, samples_per_epoch=70)
    assert np.bincount(seen(order, 0, 35)).tolist() == [20] * 7
    one = Order(samples=1, batch=16, samples_per_epoch=64)
    assert seen(one, 0, 4) == [0] * 64


@pytest.mark.parametrize("samples", [1, 2, 3, 7, 40, 500])
def test_the_stream_is_rounds_of_permutations_end_to_end_whether_made_one_by_one_or_together(samples: int) -> None:
    order = Order(samples=samples, batch=64, seed=9, samples_per_epoch=1000)
    rounds = [permutation(samples, Purpose.ORDER, 9, number).tolist() for number in range(2000 // samples + 1)]
    assert seen(order, 0, 30, world=3) == [sample for each in rounds for sample in each][: 30 * 64]


def test_many_small_rounds_are_made_in_one_go_and_a_large_one_is_made_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = []

    def counted(*words: Any) -> Any:
        made.append(words)
        return permutation(*words)

    monkeypatch.setattr(order_module, "permutation", counted)
    Order(samples=1, batch=1024, samples_per_epoch=4096).share(0)
    assert len(made) == 1
    order = Order(samples=10_007, batch=64, seed=77)
    for step in range(100):
        order.share(step)
    assert len(made) == 2


def test_an_epoch_shorter_than_the_set_goes_on_where_the_last_ended() -> None:
    order = Order(samples=30, batch=5, samples_per_epoch=10)
    assert sorted(seen(order, 0, 6)) == list(range(30))


def test_a_batch_larger_than_the_epoch_is_refused_with_the_way_out() -> None:
    with pytest.raises(
        Mistake, match=r"batch=256 is larger than an epoch of 100 samples: .*samples_per_epoch=256"
    ):
        Order(samples=100, batch=256)
    with pytest.raises(Mistake, match="batch=0: expected a whole number of at least 1"):
        Order(samples=100, batch=0)
    with pytest.raises(Mistake, match="seed=-1: expected a whole number from 0"):
        Order(samples=100, batch=8, seed=-1)
    with pytest.raises(Mistake, match="samples_per_epoch=0: expected a whole number of at least 1"):
        Order(samples=100, batch=8, samples_per_epoch=0)


def test_the_order_is_the_same_for_ever() -> None:
    """These numbers are a promise: a checkpoint of today is resumed by the library of tomorrow."""
    assert seen(Order(samples=10, batch=5, seed=7), 0, 2) == PROMISED
    assert Order(samples=10, batch=5, seed=7).share(3)[0].tolist() == [15, 16, 17, 18, 19]


PROMISED = [6, 9, 3, 8, 1, 4, 7, 2, 5, 0]
