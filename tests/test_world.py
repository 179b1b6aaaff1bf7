"""Two real workers that share a batch do what one does with the whole: equal loss, gradients, batch statistics."""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch
from torch import Tensor

from mim_ray.methods import METHODS

Results = dict[str, Tensor]

CLOSE, NOTHING = 1e-11, 1e-13
"""In double precision: of a tensor's largest number, and of the largest of all, where a gradient is zero by right.
The most found was 2e-13 and 2e-15."""

SINGLE = 2e-6
"""The same in single precision, where the most found was 6e-7."""

TWIN = {"method.target": "twin"}
BOTH_DROP = {"method.t1.mask.ratio": 0.5, "method.t2.mask": "random", "method.t2.mask.ratio": 0.75}
ALL = {"method.measure.negatives": "all"}
NORMS_IN_HEADS = {"method.measure.projector.norm": "all", "method.measure.predictor.norm": "hidden"}
NORMED = {"mocov3", "byol", *(name for name in METHODS if "_r50" in name)}
METHOD_CASES: dict[str, tuple[str, dict[str, Any]]] = {name: (name, {}) for name in METHODS} | {
    "twin": ("cmae", TWIN),
    "twin_stopped": ("cmae", TWIN | {"method.target.stop_gradient": True}),
    "twin_both_ways": ("cmae", TWIN | {"method.symmetric": True}),
    "twin_mean": ("cmae_mean", TWIN),
    "twin_class": ("cmae_class", TWIN),
    "twin_norms": ("cmae", TWIN | NORMS_IN_HEADS),
    "twin_resnet": ("mocov3_r50", TWIN),
    "all": ("cmae", ALL),
    "all_twin": ("cmae_token_class", TWIN | ALL),
    "both_drop": ("cmae_no_mask_token", BOTH_DROP),
    "both_drop_twin": ("cmae_no_mask_token", BOTH_DROP | TWIN),
    "both_drop_all_twin": ("cmae_no_mask_token", BOTH_DROP | TWIN | ALL),
    "both_drop_byol": ("cmae_byol_no_mask_token", BOTH_DROP),
}
WITH_NORMS = [case for case, (of, _) in METHOD_CASES.items() if "norms" in case or of in NORMED]
NORM_CASES: dict[str, tuple[tuple[int, ...], dict[str, Any]]] = {
    "rows": ((8, 5), {}),
    "one_row_each": ((2, 5, 4), {}),
    "tokens": ((6, 3, 7), {"momentum": 0.3}),
    "pictures": ((6, 7, 3, 5), {"eps": 0.1}),
    "one_pixel": ((6, 1, 1, 1), {}),
    "no_weights": ((4, 7, 5, 3), {"affine": False}),
    "average_of_all": ((6, 3, 5), {"momentum": None}),
}


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """Where the workers have written everything."""
    cases = [{"name": name, "method": of, "overrides": to} for name, (of, to) in METHOD_CASES.items()]
    norms = [{"name": name, "shape": shape, "settings": to} for name, (shape, to) in NORM_CASES.items()]
    script = Path(__file__).with_name("two_workers.py")
    with TemporaryDirectory() as name, ExitStack() as ends:
        (Path(name) / "cases.json").write_text(json.dumps([*norms, *cases]))
        said = [ends.enter_context((Path(name) / f"said by {rank}").open("w")) for rank in (0, 1)]
        workers = [
            subprocess.Popen([sys.executable, "-W", "default", script, name, str(rank)], stderr=said[rank])
            for rank in (0, 1)
        ]
        for worker in workers:
            ends.callback(worker.wait)
            ends.callback(worker.kill)
        for worker in workers:
            worker.wait(timeout=240)
        ends.callback(torch.set_num_threads, torch.get_num_threads())
        torch.set_num_threads(1)
        yield Path(name)


def results(folder: Path, case: str, *kinds: str) -> tuple[Results, Results, Results]:
    """Alone, and of either worker."""
    found = []
    for who in ("alone", "0", "1"):
        path = folder / who / f"{case}.pt"
        if not path.exists():
            error = path.with_suffix(".error")
            pytest.fail((error if error.exists() else folder / "said by 0").read_text(), pytrace=False)
        everything: Results = torch.load(path, mmap=True)
        found.append({name: value for name, value in everything.items() if name.startswith(kinds)})
    return found[0], found[1], found[2]


def mean(one: Results, other: Results) -> Results:
    return {name: (value + other[name]) / 2 for name, value in one.items()}


def check(found: Results, expected: Results, close: float = CLOSE, nothing: float = NOTHING) -> None:
    assert found.keys() == expected.keys()
    sizes = {name: float(value.abs().max()) for name, value in expected.items()}
    for name, size in sizes.items():
        error = float((found[name] - expected[name]).abs().max())
        within = close * size + nothing * max(sizes.values())
        assert error <= within, f"{name}: off by {error:.1e} where the largest is {size:.1e}"


@pytest.mark.parametrize("case", METHOD_CASES)
def test_the_loss_over_two_workers_is_that_over_one(folder: Path, case: str) -> None:
    alone, one, other = results(folder, case, "loss", "part")
    assert not torch.equal(one["loss"], other["loss"])
    check(mean(one, other), alone)


@pytest.mark.parametrize("case", METHOD_CASES)
def test_the_gradients_over_two_workers_are_those_over_one(folder: Path, case: str) -> None:
    alone, one, _ = results(folder, case, "gradient")
    assert max(gradient.abs().max() for gradient in alone.values()) > 1e-4
    check(one, alone)


def test_the_gradient_of_a_twin_flows_through_the_candidates_too(folder: Path) -> None:
    (twin, *_), (stopped, *_) = (results(folder, case, "loss", "gradient") for case in ("twin", "twin_stopped"))
    assert torch.equal(twin.pop("loss"), stopped.pop("loss"))
    assert not any(torch.equal(twin[name], stopped[name]) for name in twin if "online" in name)


@pytest.mark.parametrize("case", WITH_NORMS)
def test_either_worker_remembers_the_batch_statistics_of_both(folder: Path, case: str) -> None:
    alone, one, other = results(folder, case, "memory")
    assert alone
    check(one, alone)
    check(other, alone)


@pytest.mark.parametrize("case", METHOD_CASES)
def test_two_workers_are_still_one_after_a_step(folder: Path, case: str) -> None:
    alone, one, other = results(folder, case, "then loss", "then part")
    assert not torch.equal(alone["then loss"], results(folder, case, "loss")[0]["loss"])
    check(mean(one, other), alone)
    alone, one, other = results(folder, case, "then memory")
    check(one, alone)
    check(other, alone)


def test_batch_statistics_are_of_the_encoder_both_heads_and_the_target(folder: Path) -> None:
    for part in (
        "online.encoder",
        "online.projection",
        "measure.predictor",
        "target.encoder",
        "target.projection",
    ):
        assert results(folder, "byol", f"memory {part}")[0], part


@pytest.mark.parametrize("case", NORM_CASES)
def test_a_global_batch_norm_is_torchs_own_on_the_joint_batch(folder: Path, case: str) -> None:
    alone, one, other = results(folder, case, "rows")
    check({name: torch.cat([value, other[name]]) for name, value in one.items()}, alone, SINGLE, SINGLE)
    alone, one, other = results(folder, case, "sum")
    check({name: value + other[name] for name, value in one.items()}, alone, SINGLE, SINGLE)
    alone, one, other = results(folder, case, "memory")
    check(one, alone, SINGLE, 0)
    check(other, alone, SINGLE, 0)


def test_nothing_of_ours_warns_in_a_worker(folder: Path) -> None:
    lines = [line for rank in (0, 1) for line in (folder / f"said by {rank}").read_text().splitlines()]
    assert not [line for line in lines if "/mim_ray/" in line and "Warning:" in line]
