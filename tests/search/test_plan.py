"""The words of a search, how they are written down, and what they make of a trial."""

from pathlib import Path
from typing import NoReturn

import pytest
from PIL import Image

from mim_ray.config import resolve
from mim_ray.data.importer import Import, import_set
from mim_ray.data.sources import open_source
from mim_ray.errors import Mistake
from mim_ray.methods import resolved
from mim_ray.search import search as search_room
from mim_ray.search.asking import check_end, check_labels, looked_at, sized, warn_of_warmups
from mim_ray.search.memory import Record
from mim_ray.search.plan import PLAN, Search, imposed, read_plan, refuse_idle_words, refuse_words_of_a_search
from mim_ray.search.space import of_source
from tests.search.played import KNN, plan_at, record, search_of


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({"searcher": "bohb"}, r"^searcher=bohb: its library \(hpbandster\) is no longer kept: expected optuna"),
        ({"scheduler": "pbt"}, r"^scheduler=pbt: expected asha, median or none"),
        ({"searcher": "optna"}, r"expected optuna, random or grid: did you mean 'optuna'\?"),
        ({"metric": f"{KNN},cost/gflops", "scheduler": "median"}, "^scheduler=median: compares one metric"),
        ({"metric": f"{KNN},cost/gflops"}, "^scheduler=asha: compares one metric, not 2: expected none"),
        ({"reduction": 1}, "^reduction=1: expected an integer greater than or equal to 2"),
        ({"rungs": 0}, "^rungs=0: expected an integer greater than 0"),
        ({"trials": 0}, "^trials=0"),
        ({"name": "../up"}, "^name=../up: expected letters, digits"),
        (
            {"retrain": 9, "retrain_workers": "8:2"},
            "^retrain_workers=8:2: expected a number, such as 4, or the least",
        ),
        ({"retrain": 9, "retrain_workers": "0"}, "^retrain_workers=0: expected a number"),
    ],
)
def test_words_of_a_search_that_cannot_be_meant_are_refused(words: dict[str, object], said: str) -> None:
    with pytest.raises(Mistake, match=said):
        resolve(Search(), words)


@pytest.mark.parametrize(("text", "seconds"), [("30s", 30), ("90m", 5400), ("1.5h", 5400), ("8h", 28800)])
def test_a_time_is_seconds_minutes_or_hours(text: str, seconds: float) -> None:
    assert search_of(time_budget=text).seconds == seconds
    assert search_of().seconds is None


@pytest.mark.parametrize("text", ["90", "m", "-1h", "8 h", "1d", "1h30m", "0s", "0.0h"])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(Mistake, match=f"^time_budget={text}: expected a time, such as 90m or 8h"):
        search_of(time_budget=text)


@pytest.mark.parametrize(("reduction", "rungs"), [(3, 2), (2, 3), (4, 1)])
def test_a_trial_is_looked_at_so_often_that_every_rung_is_a_look(reduction: int, rungs: int) -> None:
    own = search_of(reduction=reduction, rungs=rungs)
    assert own.looks == reduction**rungs
    run = resolved("mae", {"epochs": 18})
    space = of_source("own", "from ray import tune\nMETHOD='mae'\nSPACE={'batch': tune.choice([8])}", {})
    assert float(looked_at(own, space, run)["eval.every_epochs"]) == pytest.approx(18 / reduction**rungs)
    assert looked_at(search_of(scheduler="none"), space, run) == {}
    assert search_of(scheduler="none").looks is None


@pytest.mark.parametrize("path", ["epochs", "epochs, schedule.warmup_epochs"])
def test_schedules_of_several_lengths_have_no_rungs_together(path: str) -> None:
    source = f"from ray import tune\nMETHOD='mae'\nSPACE={{{path!r}: tune.choice([3, 9])}}"
    space, run = of_source("own", source, {}), resolved("mae", {})
    with pytest.raises(Mistake, match=r"^epochs: trials are compared at the same epochs of the same schedule"):
        looked_at(search_of(), space, run)
    assert looked_at(search_of(scheduler="none"), space, run) == {}


@pytest.mark.parametrize("trials", [6, 20])
def test_a_grid_has_as_many_trials_as_points(trials: int) -> None:
    domains = "{'batch': tune.choice([8, 9]), 'epochs': tune.randint(1, 4)}"
    space = of_source("own", f"from ray import tune\nMETHOD='mae'\nSPACE={domains}", {})
    assert sized(search_of(searcher="grid", trials=trials), space).trials == 6
    assert sized(search_of(searcher="grid", trials=trials, points=1), space).trials == 2
    assert sized(search_of(trials=trials), space).trials == 6  # there are no more different ones


def test_a_grid_is_not_cut_short(tmp_path: Path) -> None:
    with pytest.raises(Mistake, match=r"^trials=5: the grid has 8 points: expected as many, or fewer points="):
        sized(search_of(searcher="grid", points=2, trials=5), plan_at(tmp_path).questions())
    assert sized(search_of(searcher="optuna", points=2, trials=5), plan_at(tmp_path).questions()).trials == 5


@pytest.mark.parametrize(
    ("words", "fixed", "said"),
    [
        ({"points": 4}, {}, "^points=4: says nothing without searcher=grid"),
        ({"scheduler": "none", "rungs": 3}, {}, "^rungs=3: says nothing without scheduler=asha"),
        ({"scheduler": "median", "reduction": 4}, {}, "^reduction=4: says nothing without scheduler=asha"),
        ({"seeds": 5}, {}, "^seeds=5: says nothing without finalists="),
        ({"protocol": "knn"}, {}, "^protocol=knn: says nothing without retrain="),
        ({"retrain_workers": "8"}, {}, "^retrain_workers=8: says nothing without retrain="),
        ({}, {"tracking.model": "m"}, "^tracking.model=m: only the best is registered: add retrain="),
    ],
)
def test_words_of_which_nothing_would_come_are_refused(
    words: dict[str, object], fixed: dict[str, str], said: str
) -> None:
    with pytest.raises(Mistake, match=said):
        refuse_idle_words(search_of(**words), fixed)
    used = {"finalists": 1, "retrain": 9, "seeds": 5, "protocol": "knn"}
    refuse_idle_words(search_of(**used), {"tracking.model": "m"})
    refuse_idle_words(search_of(searcher="grid", points=4, rungs=3), {})


def test_a_warm_up_that_is_longer_than_the_first_rung_is_told(caplog: pytest.LogCaptureFixture) -> None:
    runs = [resolved("mae", {"epochs": 9, "schedule.warmup_epochs": epochs}) for epochs in (0, 2)]
    warn_of_warmups(search_of(scheduler="none"), runs)
    warn_of_warmups(search_of(), runs[:1])
    assert caplog.text == ""
    warn_of_warmups(search_of(), runs)
    assert "schedule.warmup_epochs=2: is longer than the first rung, after 1 of 9 epochs" in caplog.text


@pytest.mark.parametrize(
    ("words", "fixed", "said"),
    [
        ({"protocol": "linaer"}, {"data.val": "v"}, r"^no protocol 'linaer': did you mean 'linear'\?"),
        ({"protocol": "knn"}, {"data.train": "t"}, r"^retrain=9: the best is judged by knn: expected data\.val="),
        ({}, {"data.val": "none"}, r"^retrain=9: the best is judged by linear: expected data\.val="),
    ],
)
def test_an_end_that_cannot_be_is_refused_at_the_beginning(
    words: dict[str, object], fixed: dict[str, str], said: str
) -> None:
    with pytest.raises(Mistake, match=said):
        check_end(search_of(retrain=9, **words), fixed, "encoder")
    check_end(search_of(**words), fixed, "encoder")


def test_pictures_without_labels_are_refused_before_anything_is_trained(tmp_path: Path) -> None:
    """By what the trials are compared, as by their loss, may need none; the best is judged by them."""
    pictures, unlabelled = tmp_path / "pictures", tmp_path / "unlabelled.beton"
    pictures.mkdir()
    for number in range(2):
        Image.new("RGB", (32, 32), (number, 0, 0)).save(pictures / f"{number}.png")
    import_set(open_source(str(pictures)), unlabelled, Import(workers=1))
    labelled = "sample:shapes:n=8"
    for sets in ({"data.train": str(unlabelled)}, {"data.val": str(unlabelled)}):
        fixed = {"data.train": labelled, "data.val": labelled} | sets
        check_labels(search_of(metric="eval/loss"), fixed)
        with pytest.raises(
            Mistake, match=r"^retrain=9: the best is judged by linear: .*has no labels to learn from"
        ):
            check_labels(search_of(metric="eval/loss", retrain=9), fixed)
    check_labels(search_of(retrain=9), {"data.train": labelled, "data.val": labelled})


@pytest.mark.parametrize(("model", "retrain", "warnings"), [(None, 9, 1), ("encoder", 9, 0), (None, None, 0)])
def test_a_best_without_a_name_is_not_registered(
    model: str | None, retrain: int | None, warnings: int, caplog: pytest.LogCaptureFixture
) -> None:
    check_end(search_of(retrain=retrain), {"data.val": "v"}, model)
    assert caplog.text.count("not registered: name it by tracking.model=") == warnings


def test_a_plan_that_is_read_is_the_plan_that_was_written(tmp_path: Path) -> None:
    plan = plan_at(tmp_path, trials=8, time_budget="8h", scheduler="median")._replace(
        run_id="abc", model="encoder", fixed={"encoder": "micro", "data.train": "a,b"}
    )
    plan.write()
    assert read_plan(plan.folder) == plan
    assert read_plan(plan.folder).search == search_of(trials=8, time_budget="8h", scheduler="median")
    assert read_plan(plan.folder).questions() == plan.questions()


def test_a_plan_on_a_disk_has_no_password(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    address = "postgresql://me:secret@host/runs"
    plan = plan_at(tmp_path)._replace(tracking_uri=address)
    plan.write()
    assert b"secret" not in plan.folder.read(PLAN)
    read = read_plan(plan.folder)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    assert read.uri == address
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "postgresql://me:secret@elsewhere/runs")
    assert read.uri == "postgresql://host/runs"
    assert plan_at(tmp_path).uri is None


def test_a_trial_is_its_draw_over_what_is_fixed(tmp_path: Path) -> None:
    plan = plan_at(tmp_path, workers_per_trial=2)
    method, words = plan.of_trial(record(7, batch="64"))
    assert method == "rmae"
    assert (words["name"], words["storage"]) == ("played-007", f"{tmp_path}/played/runs")
    assert (words["batch"], words["encoder"], words["workers"]) == ("64", "micro", "2")
    assert words["checkpoint.best"] == KNN
    resolved(method, words)


@pytest.mark.parametrize(("fixed", "seed"), [({}, "2"), ({"seed": "40"}, "42")])
def test_a_finalist_has_another_seed_than_the_search(tmp_path: Path, fixed: dict[str, str], seed: str) -> None:
    plan = plan_at(tmp_path)._replace(fixed=fixed)
    _, words = plan.of_trial(Record(9, {}, {}, seed=2, of=1))
    assert words["seed"] == seed


def test_a_trial_may_choose_its_method(tmp_path: Path) -> None:
    source = "from ray import tune\nMETHOD = 'mae'\nSPACE = {'method': tune.choice(['mae', 'simmim'])}"
    plan = plan_at(tmp_path, source)
    assert plan.of_trial(Record(0, {}, {"method": "simmim"}))[0] == "simmim"
    assert "method" not in plan.of_trial(Record(0, {}, {"method": "simmim"}))[1]
    fixed = plan_at(tmp_path)._replace(fixed={"method": "rmae_25"})
    assert fixed.of_trial(Record(0, {}, {}))[0] == "rmae_25"
    assert "method" not in fixed.of_trial(Record(0, {}, {}))[1]


@pytest.mark.parametrize(
    ("metric", "words"),
    [
        (KNN, {"checkpoint.best": KNN}),
        ("train/loss", {"checkpoint.best": "train/loss"}),
        ("eval/linear_top1,cost/gflops", {"checkpoint.best": "eval/linear_top1", "eval.linear": "true"}),
        ("cost/gflops", {}),
    ],
)
def test_what_is_searched_for_is_what_is_kept_and_asked(metric: str, words: dict[str, str]) -> None:
    assert imposed(search_of(metric=metric, scheduler="none")) == {"workers": "1"} | words


@pytest.mark.parametrize(
    ("path", "instead"), [("steps", "epochs"), ("workers", "workers_per_trial"), ("eval.every_epochs", "rungs")]
)
def test_a_search_has_its_own_words(path: str, instead: str) -> None:
    with pytest.raises(Mistake, match=f"^{path}=3: a search has its own word for it: expected {instead}="):
        refuse_words_of_a_search(search_of(), {path: "3"})
    refuse_words_of_a_search(search_of(scheduler="none"), {"eval.every_epochs": "3", "epochs": "9"})


@pytest.mark.parametrize("path", ["steps", "workers", "eval.every_epochs", "batch, workers"])
def test_a_space_does_not_search_what_a_search_says_itself(
    path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All trials have the same workers, and are looked at as often."""

    def begun(_: str | None) -> NoReturn:
        raise AssertionError("the search has begun")

    monkeypatch.setattr(search_room, "connected", begun)
    file = tmp_path / "own.py"
    file.write_text(f"from ray import tune\nMETHOD = 'mae'\nSPACE = {{{path!r}: tune.choice([1, 2])}}\n")
    with pytest.raises(Mistake, match=path.rpartition(" ")[2]):
        search_room.search(
            str(file),
            search_of(),
            {"storage": str(tmp_path)},
            address=None,
            track=False,
            only_plan=True,
            say=print,
        )
