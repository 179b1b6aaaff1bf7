"""Measuring: the arithmetic of ratios. No test asserts a time."""

import json
import subprocess
from pathlib import Path

import pytest
import torch

from mim_ray import benches, cli, output, search_bench, train_bench
from mim_ray import turns as turns_of_runs
from mim_ray.bench import Finding, median_interval, paired
from mim_ray.data.loader import Loader
from mim_ray.errors import nearest
from mim_ray.methods import resolved
from mim_ray.training.job import Job, job_of
from mim_ray.training.place import Notice, Place
from mim_ray.training.schedule import planned
from mim_ray.training.worker import loader_for
from mim_ray.turns import FOLDER, STEPS, STOP, TAKEN, Recorded, Turns
from tests.databases import fresh

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # MLflow's own


def test_the_sides_take_turns_and_the_median_ratio_is_given() -> None:
    calls: list[str] = []

    def side(name: str, rate: float) -> float:
        calls.append(name)
        return rate

    measured = paired("x", lambda: side("a", 3.0), lambda: side("b", 2.0), pairs=4, unit="u")
    assert measured == Finding(1.5, 1.5, 1.5, 4, "u")
    assert "".join(calls) == "ab" + "abba" * 2


def test_the_interval_of_a_median_is_that_of_order_statistics() -> None:
    assert median_interval([float(i) for i in range(9)]) == (1.0, 7.0)  # 96.1 % of the binomial with n = 9
    assert median_interval([3.0, 1.0, 2.0]) == (1.0, 3.0)
    assert median_interval([5.0]) == (5.0, 5.0)


def test_results_are_printed_recorded_and_tracked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = []
    monkeypatch.setattr(benches, "RATIOS", {"R1": lambda pairs: Finding(1.01, 1.0, 1.02, pairs, "u")})
    monkeypatch.setattr(output, "keep_result", lambda _command, **result: kept.append(result))
    assert cli.run(["bench", "R1", "--pairs", "5", "--record", str(tmp_path), "--json"]) == 0
    row = {"ratio": 1.01, "low": 1.0, "high": 1.02, "pairs": 5, "unit": "u"}
    assert json.loads(capsys.readouterr().out) == {"R1": row}
    (record,) = tmp_path.iterdir()
    assert json.loads(record.read_text())["result"] == {"R1": row}
    assert kept[0]["metrics"] == {"bench/R1": 1.01}
    assert kept[0]["params"] == benches.machine()
    assert kept[0]["documents"] == {"bench.json": {"R1": row}}
    assert cli.run(["bench", "R1", "--no-track"]) == 0
    assert len(kept) == 1
    assert cli.run(["bench", "R77"]) == 2
    assert "no benchmark 'R77'" in capsys.readouterr().err


def test_every_benchmark_of_the_contract_is_there() -> None:
    contract = {"R1", "R2", "R2u", "R3", "R4", "R6", "R7", "R8", "R9", "R10", "R11", "R12", "R13"}
    assert contract <= benches.RATIOS.keys() | benches.TABLES.keys()
    assert not benches.RATIOS.keys() & benches.TABLES.keys()
    described = (Path(__file__).parent.parent / "benchmarks" / "README.md").read_text()
    assert [name for name in contract - {"R8", "R9"} if f"| {name} |" not in described] == []


@pytest.mark.parametrize("name", train_bench.RATIOS)
def test_the_sides_of_a_training_benchmark_are_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    sides: list[train_bench.Sort] = []

    def compared(_what: str, pairs: int, *given: train_bench.Sort) -> Finding:
        sides.extend(given)
        return Finding(1.0, 1.0, 1.0, pairs, "u")

    monkeypatch.setattr(train_bench, "_compared", compared)
    train_bench.RATIOS[name](1)
    for number in range(2):
        (tmp_path / str(number)).mkdir()
        fresh(tmp_path / str(number))
    ours, theirs = (
        job_of(train_bench.Side(tmp_path / str(number), sort).job.read_bytes()).run
        for number, sort in enumerate(sides)
    )
    assert (ours.batch, ours.method, ours.data, ours.optim) == (
        theirs.batch,
        theirs.method,
        theirs.data,
        theirs.optim,
    )
    assert STEPS % ours.tracking.every_steps == STEPS % theirs.tracking.every_steps == 0


def small_job(folder: Path, **words: object) -> Job:
    small: train_bench.Words = {"encoder": "micro", "data.crop.size": (32, 32), "data.backend": "torch"}
    small["data.train"] = "sample:shapes:n=80"
    return job_of(train_bench.Side(folder, train_bench.Sort("process", small | words)).job.read_bytes())


def test_a_run_waits_for_its_turn_and_ends_when_told(tmp_path: Path) -> None:
    turns = Turns(small_job(tmp_path).run, Place(device=torch.device("cpu"), notice=lambda: Notice.SOON))
    (tmp_path / FOLDER / "go-1").touch()
    turns.wait()
    assert turns.notice() == Notice.SOON
    (tmp_path / FOLDER / STOP).touch()
    turns.wait()
    assert turns.notice() == Notice.STOP
    assert float((tmp_path / FOLDER / "seconds-1").read_text()) >= 0
    assert not (tmp_path / FOLDER / "seconds-2").exists()


def test_what_is_told_of_a_turn_is_told_in_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So what is sent then is sent beside its steps, not between the turns."""
    events: list[object] = []
    monkeypatch.setattr(turns_of_runs, "STEPS", 2)
    monkeypatch.setattr(Turns, "wait", lambda _: events.append("a turn"))
    words = {"steps": 5, "tracking.every_steps": 2}
    place = Place(device=torch.device("cpu"), tell=lambda numbers: events.append(numbers["step"]))
    assert turns_of_runs.by_turns(small_job(tmp_path, **words), place)["steps"] == 5
    assert events == [0, "a turn", 2, "a turn", 4, 5]


def test_samples_that_were_lost_or_repeated_are_counted() -> None:
    order = Loader("sample:shapes:n=80", batch=16).order
    taken = [[step, *order.share(step)[1].tolist()] for step in range(7)]
    assert train_bench.lost_and_repeated(taken, order, 7) == (0, 0)
    taken[3][-1] = taken[3][1]
    del taken[6]
    assert train_bench.lost_and_repeated(taken, order, 7) == (17, 1)


@pytest.mark.parametrize(("first", "found"), [(3, (0, 0)), (5, (32, 0)), (2, (0, 16))])
def test_a_run_that_goes_on_elsewhere_than_its_weights_loses_or_repeats(
    tmp_path: Path, first: int, found: tuple[int, int]
) -> None:
    """Though the killed one had trained the steps that are lost."""
    run = small_job(tmp_path, steps=7).run
    loader = loader_for(run, Place())
    killed, next_one = (Recorded(run, Place(), planned(run, loader.steps_per_epoch), pieces=1) for _ in range(2))
    for batch in loader.batches(0, 3):
        killed(batch)
    checkpoint = killed.tensors()
    for batch in loader.batches(3, 5):
        killed(batch)
    next_one.load(*checkpoint)
    for batch in loader.batches(first, 7):
        next_one(batch)
    assert train_bench.lost_and_repeated(next_one.tensors()[0][TAKEN].tolist(), loader.order, 7) == found


def test_what_a_search_trained_is_told_as_a_share_of_the_whole_command(monkeypatch: pytest.MonkeyPatch) -> None:
    def searched(command: list[str], *, cwd: str, **_: object) -> "subprocess.CompletedProcess[str]":
        words = dict(word.split("=", 1) for word in command if "=" in word)
        searching = {"name", "trials", "workers_per_trial", "concurrent", "method"}
        assert resolved(words["method"], {path: words[path] for path in words.keys() - searching}).epochs == 18
        trials = Path(cwd, "runs", words["name"], "trials")
        trials.mkdir(parents=True)
        for number, state in enumerate(("finished", "stopped")):
            (trials / f"{number}.json").write_text(json.dumps({"seconds": 20.0, "state": state}))
        return subprocess.CompletedProcess(command, 0, json.dumps({"busy_share": 0.9}), "")

    clock = iter([0.0, 50.0])
    monkeypatch.setattr("mim_ray.search_bench.subprocess.run", searched)
    monkeypatch.setattr("mim_ray.search_bench.time.perf_counter", lambda: next(clock))
    (row,) = search_bench.r11()
    assert (row["trials"], row["stopped at a rung"], row["share of it trained"]) == (2, 1, 0.8)


@pytest.mark.parametrize("wrong", [["--pairs", "0"], ["--pairs", "-1"], ["--record", __file__]])
def test_what_cannot_work_is_refused_before_anything_is_measured(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], wrong: list[str]
) -> None:
    measured: list[int] = []
    monkeypatch.setattr(benches, "RATIOS", {"R1": measured.append})
    assert cli.run(["bench", "R1", *wrong]) == 2
    assert wrong[0] in capsys.readouterr().err
    assert measured == []


def test_a_folder_for_records_is_made_and_left_empty(tmp_path: Path) -> None:
    benches.prepare_record(tmp_path / "a" / "b")
    assert list((tmp_path / "a" / "b").iterdir()) == []


@pytest.mark.parametrize(
    ("word", "choices", "hint"),
    [
        ("mea", ["mae", "moco"], ": did you mean 'mae'?"),
        ("r2", ["R1", "R2"], ": did you mean 'R2'?"),
        ("R3", ["R1", "R2"], ": choose from R1, R2"),
        ("15", ["14", "16"], ": choose from 14, 16"),
        ("mocov4", ["mocov3", "mae"], ": choose from mae, mocov3"),
        ("xyz", ["mae"], ": choose from mae"),
        ("xyz", [], ""),
    ],
)
def test_a_number_is_never_guessed(word: str, choices: list[str], hint: str) -> None:
    assert nearest(word, choices) == hint


def test_a_result_goes_to_mlflow_and_a_dead_server_only_costs_a_notice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow.tracking import MlflowClient

    from mim_ray.tracking.results import keep_result

    monkeypatch.setenv("MLFLOW_TRACKING_URI", fresh(tmp_path))
    monkeypatch.chdir(tmp_path)
    run_id = keep_result(
        "bench", params={"cores": 2}, metrics={"bench/R1": 1.0}, documents={"bench.json": {"a": 1}}
    )
    assert run_id is not None
    assert MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}").get_run(run_id).data.metrics == {"bench/R1": 1.0}
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    for dead in ("http://user:hunter2@127.0.0.1:9/?token=hunter2", "nothing://user:hunter2@nobody"):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", dead)
        with pytest.warns(UserWarning, match="this result is printed only: MLflow at") as notices:
            assert keep_result("bench", params={}, metrics={}, documents={}) is None
        assert "hunter2" not in str(notices[0].message)
