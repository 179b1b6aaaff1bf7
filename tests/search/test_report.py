"""A search in pictures and tables, from trials that are made up."""

import json
import random
from pathlib import Path
from typing import Any

import pytest

from mim_ray import charts
from mim_ray.search.memory import Record
from mim_ray.search.report import common_look, importance, value_at, written
from mim_ray.search.space import Space
from tests.search.played import KNN, look, plan_at, record, search_of, seed_of

CONDITIONAL = """
from ray import tune

METHOD = "mae"
ONLY = {"method.measure.head.heads": ("method.measure.head.depth", (4, 8))}
SPACE = {
    "method.measure.head.depth": tune.choice([1, 4, 8]),
    "method.measure.head.heads": tune.choice([2, 16]),
    "method.t1.mask.ratio": tune.uniform(0.5, 0.9),
}
"""
DEPTH, HEADS = "method.measure.head.depth", "method.measure.head.heads"
EVERY = {"trials.json", "parallel_coordinates.png", "learning_curves.png", "responses.png", "importance.png"}


@pytest.fixture
def space(tmp_path: Path) -> Space:
    return plan_at(tmp_path).questions()


def trials(count: int = 24) -> list[Record]:
    """Only the mask ratio matters; most are stopped after a look."""
    chance, records = random.Random(0), []
    for number in range(count):
        ratio = chance.uniform(0.25, 0.75)
        draw: dict[str, Any] = {
            "method.measure.penalty": chance.uniform(0.01, 1),
            "batch": chance.choice(["32", "64"]),
        }
        values = [ratio / 9 * epoch for epoch in range(1, 10)]
        is_whole = number % 3 == 0
        one = record(number, *values[: 9 if is_whole else 1], state="finished" if is_whole else "stopped", **draw)
        one.draw["method.t1.mask.ratio"] = ratio
        records.append(one)
    return records


def test_all_files_are_written(tmp_path: Path, space: Space) -> None:
    records = trials()
    records.append(record(24, state="failed"))
    records.append(record(25, 0.4, 0.5))
    records[-1].of = 0
    files = written(records, search_of(), space, 9, tmp_path / "report")
    assert {path.name for path in files} == EVERY == {path.name for path in (tmp_path / "report").iterdir()}
    assert all(path.stat().st_size > 0 for path in files)
    assert len(json.loads((tmp_path / "report" / "trials.json").read_text())) == 26


@pytest.mark.parametrize("depths", [["1", "4", "8", "1"], ["4", "1", "1", "8"], ["1"] * 4])
def test_settings_that_only_some_trials_have_are_drawn_where_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, depths: list[str]
) -> None:
    """Whether or not the best trial, which is the last, has them."""
    space = plan_at(tmp_path, CONDITIONAL).questions()
    records = []
    for number, depth in enumerate(depths):
        draw = {DEPTH: depth, "method.t1.mask.ratio": 0.5 + 0.1 * number}
        draw |= {} if depth == "1" else {HEADS: "2" if number % 2 else "16"}
        records.append(record(number, 0.1, 0.1 * (number + 1)))
        records[-1].draw = draw
    with monkeypatch.context() as watched:
        drawn: dict[str, Any] = {}
        for name in ("parallel_coordinates", "responses"):
            watched.setattr(charts, name, lambda what, *_, name=name: drawn.update({name: what}))
        written(records, search_of(), space, 2, tmp_path / "watched")
    has_heads = set(depths) != {"1"}
    assert (HEADS in drawn["parallel_coordinates"][0], HEADS in drawn["responses"]) == (has_heads, has_heads)
    if has_heads:
        values = [row[HEADS] for row in drawn["parallel_coordinates"]]
        assert sorted(map(str, values)) == sorted(str(one.draw.get(HEADS)) for one in records)
        assert len(drawn["responses"][HEADS]) == 2
    assert {path.name for path in written(records, search_of(), space, 2, tmp_path / "drawn")} == EVERY


def test_a_line_passes_below_an_axis_on_which_it_has_no_value() -> None:
    assert charts._places([4.0, None, 2.0, 3.0]) == [1.0, charts.ABSENT, 0.0, 0.5]
    assert charts._places(["b", "a", None]) == [1.0, 0.0, charts.ABSENT]


def test_two_metrics_have_a_front(tmp_path: Path, space: Space) -> None:
    records = trials(6)
    for one in records:
        for seen in one.looks:
            seen["cost/gflops"] = float(one.number)
    files = written(records, search_of(metric=f"{KNN},cost/gflops", scheduler="none"), space, 9, tmp_path)
    assert {path.name for path in files} == EVERY | {"front.png"}


def test_the_front_is_drawn_of_means_over_seeds(
    tmp_path: Path, space: Space, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[object] = []
    monkeypatch.setattr(charts, "scatter", lambda points, *_: drawn.extend(points))
    records = [record(0, 0.9), record(1, 0.6), seed_of(2, 0, 0.1)]
    for one in records:
        one.looks[-1]["cost/gflops"] = 1.0
    written(records, search_of(metric=f"{KNN},cost/gflops", scheduler="none"), space, 9, tmp_path)
    assert sorted(drawn, key=str) == [(1.0, 0.5, False), (1.0, 0.6, True)]


@pytest.mark.parametrize("records", [[], [record(0)], [record(0, 0.1, state="failed")]])
def test_of_a_search_that_found_nothing_there_is_a_table(
    tmp_path: Path, space: Space, records: list[Record]
) -> None:
    assert [path.name for path in written(records, search_of(), space, 9, tmp_path)] == ["trials.json"]


def test_of_one_trial_there_is_what_can_be_drawn(tmp_path: Path, space: Space) -> None:
    files = written([record(0, 0.1, 0.2)], search_of(), space, 9, tmp_path)
    assert {path.name for path in files} == EVERY - {"importance.png"}


def test_a_trial_without_a_number_leaves_all_files(tmp_path: Path, space: Space) -> None:
    records = [*trials(), record(24, 0.1, float("nan"))]
    assert {path.name for path in written(records, search_of(), space, 9, tmp_path)} == EVERY


def test_a_picture_that_fails_leaves_the_others(
    tmp_path: Path, space: Space, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(charts, "learning_curves", refuse)
    files = written(trials(), search_of(), space, 9, tmp_path)
    assert {path.name for path in files} == EVERY - {"learning_curves.png"}
    assert "learning_curves is not drawn: no space left" in caplog.text


def test_the_setting_that_matters_is_found(space: Space) -> None:
    shares = importance(trials(), search_of(), space)
    assert shares.keys() == space.domains.keys()
    assert shares["method.t1.mask.ratio"] > 0.7
    assert sum(shares.values()) == pytest.approx(1)


def test_of_few_trials_or_equal_ones_nothing_is_said(space: Space) -> None:
    assert importance(trials(3), search_of(), space) == {}
    assert importance([record(number, 0.5) for number in range(9)], search_of(), space) == {}


def test_trials_are_compared_at_the_last_look_of_all() -> None:
    records = [record(0, 0.1, 0.2, 0.3), record(1, 0.4, 0.5), record(2)]
    assert common_look(records) == 2
    assert [value_at(one, 2, KNN) for one in records] == [0.2, 0.5, None]
    records[1].looks[-1] = look(2, 0.5, "eval/loss")
    assert value_at(records[1], 2, KNN) == 0.4
    assert common_look([]) == 0
