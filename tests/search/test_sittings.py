"""A search from its first sitting to its answer, with trials that are made up and no cluster."""

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytest

from mim_ray import cli
from mim_ray.errors import Failure, Mistake
from mim_ray.search import again, prospect, sitting
from mim_ray.search import search as room
from mim_ray.search.answer import ANSWER
from mim_ray.search.asking import Asking
from mim_ray.search.busy import BUSY
from mim_ray.search.losses import FRUITLESS, TRIES
from mim_ray.search.memory import Memory, Record
from mim_ray.search.plan import Plan
from mim_ray.search.study import Remembering, Study
from tests.search.played import KNN, Played, plan_at, record, search_of

LOOKS = 9
PROSPECT = {
    "steps_of_a_trial": 36, "seconds_of_a_step": 0.1, "seconds_of_a_look": 1.0, "whole_trials": [1.3, 3],
    "worker_hours": [0.9, 3.0], "hours": [0.5, 1.5], "resources": "2 CPU",
}  # fmt: skip


def learnt(one: Record) -> list[float]:
    return [0.1 * epoch + 0.01 * one.number for epoch in range(LOOKS)]


class World:
    """What stands for Tune: trials are played, but for those that are lost."""

    def __init__(self) -> None:
        self.lost: set[int] = set()
        self.refused: set[int] = set()
        """By their own workers."""
        self.tries: Counter[int] = Counter()
        self.room_for: float = 99
        """How many trials more there is time for."""
        self.sittings = self.at_once = 0

    def tuned(self, plan: Plan, study: Study, scheduler: Remembering, **_: Any) -> None:
        self.sittings += 1
        self.at_once = plan.concurrent
        played = object.__new__(Played)
        played.study, played.scheduler, played.memory = study, scheduler, study._memory
        played.search, played.epochs = plan.search, 0
        played._numbers = iter(range(99))  # type: ignore[assignment]
        while (trial := played.begin(learnt)) is not None:
            if self.room_for <= 0:
                study.closing = True
            self.tries[number := trial.record.number] += 1
            if number in self.lost | self.refused:
                away = {"look": -1, "over": "lost", "reason": "MLflow is away", "done": True}
                study.on_trial_complete(trial.trial_id, away | {"begun": number in self.refused})
                continue
            while played.go_on(trial):
                pass
            self.room_for -= 1


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    world = World()
    monkeypatch.setattr(sitting, "tuned", world.tuned)
    return world


def searched(plan: Plan) -> dict[str, Any]:
    plan.write()
    return room._searched(plan, None)


def states(plan: Plan) -> list[str]:
    return [one.state for one in Memory(plan.folder)]


def test_finalists_follow_and_the_answer_is_written_down(tmp_path: Path, world: World) -> None:
    plan = plan_at(tmp_path, trials=4, finalists=2, seeds=2, scheduler="none")
    result = searched(plan)
    assert result["finished"]
    assert len(result["trials"]) == 6
    assert (result["best"]["seeds"], result["best"]["std"]) == (2, pytest.approx(0.007, abs=1e-3))
    assert json.loads(plan.folder.read(ANSWER)) == result
    assert {"trials.json", "learning_curves.png"} <= {path.name for path in (tmp_path / "played/report").iterdir()}
    assert world.sittings == 2


@pytest.mark.usefixtures("world")
def test_where_too_few_came_to_the_end_the_best_of_the_others_are_finalists(tmp_path: Path) -> None:
    """A trial that comes later is better here, so that the first ones alone pass no rung."""
    plan = plan_at(tmp_path, trials=6, finalists=3, seeds=2, rungs=1)
    plan.write()
    memory = Memory(plan.folder)
    for number in range(6):
        one = record(number, *learnt(Record(number, {}, {}))[: 9 if number == 4 else 1])
        one.state = "finished" if number == 4 else "stopped"
        memory.keep(one)
    for number in range(6):
        plan.runs.below(f"played-{number:03}/checkpoints").write("made_up", b"{}")
    result = searched(plan)
    finalists = {row["trial"]: row for row in result["trials"] if "seeds" in row}
    assert finalists.keys() == {4, 5, 3}
    assert all((row["state"], row["seeds"]) == ("finished", 2) for row in finalists.values())
    assert [row["state"] for row in result["trials"]].count("stopped") == 3
    kept = [number for number in range(6) if plan.runs.below(f"played-{number:03}").has("checkpoints")]
    assert kept == [3, 4, 5]


@pytest.mark.usefixtures("world")
def test_those_that_diverged_are_not_tried_again(tmp_path: Path) -> None:
    plan = plan_at(tmp_path, trials=4, scheduler="none")
    plan.write()
    memory = Memory(plan.folder)
    for number in range(3):
        memory.keep(record(number, state="failed"))
    result = searched(plan)
    assert result["finished"]
    assert states(plan) == ["failed"] * 3 + ["finished"]


def test_an_answer_that_is_known_needs_no_cluster(
    tmp_path: Path, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = plan_at(tmp_path, trials=2)
    result = searched(plan)
    monkeypatch.setattr(room, "connected", pytest.fail)
    known = json.loads(json.dumps(result))
    for words in {}, {"trials": "2"}:
        assert room.resumed("played", str(tmp_path), None, words, address=None) == known
    assert world.sittings == 1


@pytest.mark.parametrize(
    ("room_for", "words", "at_once", "said"),
    [
        (4, {}, 4, ""),
        (2, {}, 2, "room for 2 trials at a time by now, and had for 4"),
        (4, {"concurrent": "1"}, 1, ""),
    ],
)
def test_on_a_smaller_cluster_it_goes_on_with_fewer_at_a_time(
    tmp_path: Path, world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
    room_for: int, words: dict[str, str], at_once: int, said: str,
) -> None:  # fmt: skip
    plan_at(tmp_path, trials=8, concurrent=4)._replace(concurrent=4).write()
    monkeypatch.setattr(room, "connected", lambda *_, **__: nullcontext())
    monkeypatch.setattr(again, "resources_of_a_worker", lambda _: {"CPU": 1.0})
    monkeypatch.setattr(again, "check_room", lambda *_, **__: None)
    monkeypatch.setattr(again, "workers_that_fit", lambda _: 99)
    monkeypatch.setattr(prospect, "workers_that_fit", lambda _: room_for)
    monkeypatch.setattr(prospect, "grows", lambda: False)
    room.resumed("played", str(tmp_path), None, words, address=None)
    assert world.at_once == at_once
    assert caplog.text.count("trials at a time by now") == bool(said)
    assert said in caplog.text


def test_more_at_a_time_than_there_is_room_for_are_refused_on_the_way_too(
    tmp_path: Path, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan_at(tmp_path, trials=8).write()
    monkeypatch.setattr(room, "connected", lambda *_, **__: nullcontext())
    monkeypatch.setattr(again, "resources_of_a_worker", lambda _: {"CPU": 1.0})
    monkeypatch.setattr(again, "check_room", lambda *_, **__: None)
    monkeypatch.setattr(again, "workers_that_fit", lambda _: 99)
    monkeypatch.setattr(prospect, "workers_that_fit", lambda _: 2)
    monkeypatch.setattr(prospect, "grows", lambda: False)
    with pytest.raises(
        Mistake, match=r"^concurrent=3: 3 workers with 1 CPU each are more than the cluster can have"
    ):
        room.resumed("played", str(tmp_path), None, {"concurrent": "3"}, address=None)
    assert world.sittings == 0


def test_what_may_be_said_anew_is_handed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[object] = []

    def resumed(*of: object, **words: object) -> None:
        said.extend([*of, words])
        raise Mistake("enough")

    monkeypatch.setattr(room, "resumed", resumed)
    anew = ["concurrent=2", "cpus_per_worker=4", "trials=9"]
    assert cli.run(["search", "--resume", "played", "storage=there", *anew]) == 2
    words = {"concurrent": "2", "cpus_per_worker": "4", "trials": "9"}
    assert said == ["played", "there", None, words, {"address": None}]
    assert cli.run(["search", "--resume", "played", "workers_per_trial=2"]) == 2
    assert len(said) == 5


def test_a_plan_is_told_and_leaves_nothing(tmp_path: Path, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    asked = Asking(plan_at(tmp_path, trials=3), plan_at(tmp_path).questions(), PROSPECT)
    monkeypatch.setattr(room, "connected", lambda *_, **__: nullcontext())
    monkeypatch.setattr(room, "asked_of", lambda *_, **__: asked)
    fixed = {"encoder": "micro", "data.train": "sample:shapes:n=64", "storage": str(tmp_path), "epochs": "18"}
    own = search_of(name="told", trials=3)
    found = room.search("rmae_lambda", own, fixed, address=None, track=True, only_plan=True, say=said.append)
    assert (found["name"], found["trials"], found["hours"]) == ("told", 3, [0.5, 1.5])
    assert "each on 1 worker of 2 CPU, 1 at a time" in said[0]
    assert "about 1.3 to 3 whole trials in all: 0.9 to 3 worker hours, 0.5 to 1.5 on the clock" in said[0]
    assert not (tmp_path / "told").exists()
    assert world.sittings == 0


def test_an_outage_ends_the_sitting_and_the_next_one_loses_nothing(tmp_path: Path, world: World) -> None:
    plan = plan_at(tmp_path, trials=8, scheduler="none", finalists=1, seeds=2)
    world.lost = set(range(2, 99))
    with pytest.raises(Failure, match=r"the last one: MLflow is away: go on with mim-ray search --resume played"):
        searched(plan)
    assert states(plan) == ["finished"] * 2 + ["lost"] * FRUITLESS
    assert not plan.folder.has(ANSWER)
    world.lost = set()
    result = searched(plan)
    assert result["finished"]
    assert states(plan) == ["finished"] * 9


def test_however_often_it_is_gone_on_with_in_an_outage_no_trial_is_burnt(tmp_path: Path, world: World) -> None:
    plan = plan_at(tmp_path, trials=6, scheduler="none")
    world.lost = set(range(2, 99))
    for _ in range(4):
        with pytest.raises(Failure, match="trial after trial comes to nothing"):
            searched(plan)
        assert states(plan) == ["finished"] * 2 + ["lost"] * FRUITLESS
    world.lost = set()
    assert searched(plan)["finished"]
    assert states(plan) == ["finished"] * 6


def test_an_outage_in_the_final_gives_back_the_last_trial_that_it_took(tmp_path: Path, world: World) -> None:
    plan = plan_at(tmp_path, trials=4, scheduler="none", finalists=2, seeds=2)
    world.lost = set(range(3, 99))
    with pytest.raises(Failure, match="trial after trial comes to nothing"):
        searched(plan)
    assert states(plan)[:4] == ["finished"] * 3 + ["lost"]
    world.lost = set()
    assert searched(plan)["finished"]
    assert set(states(plan)) == {"finished"}


def test_one_that_is_lost_again_and_again_is_left_out_and_the_search_ends(
    tmp_path: Path, world: World, caplog: pytest.LogCaptureFixture
) -> None:
    plan = plan_at(tmp_path, trials=4, scheduler="none", finalists=1, seeds=2)
    world.lost = {1}
    result = searched(plan)
    assert (result["finished"], result["best"]["seeds"]) == (True, 2)
    assert states(plan) == ["finished", "failed", "finished", "finished", "finished"]
    assert world.tries[1] == TRIES
    assert "trial 1 is left out, lost 2 times: MLflow is away" in caplog.text


def test_one_that_was_lost_once_is_tried_again_at_once(
    tmp_path: Path, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = plan_at(tmp_path, trials=4, scheduler="none")
    world.lost = {1}

    def passes(*of: Any, **words: Any) -> None:
        world.tuned(*of, **words)
        world.lost = set()

    monkeypatch.setattr(sitting, "tuned", passes)
    assert searched(plan)["finished"]
    assert states(plan) == ["finished"] * 4
    assert [one.losses for one in Memory(plan.folder)] == [0] * 4


def test_as_many_as_cannot_be_trained_are_left_out(tmp_path: Path, world: World) -> None:
    """Each was lost while others learnt, so that to lose them all in a row is no outage."""
    plan = plan_at(tmp_path, trials=9, scheduler="none", finalists=1, seeds=2)
    world.lost = {1, 3, 5, 7}
    assert searched(plan)["finished"]
    assert states(plan)[:9] == ["finished", "failed"] * 4 + ["finished"]


def test_trials_in_a_row_that_their_workers_refuse_end_no_search_for_good(tmp_path: Path, world: World) -> None:
    plan = plan_at(tmp_path, trials=6, scheduler="none")
    world.refused = {3, 4, 5}
    with pytest.raises(Failure, match="trial after trial comes to nothing"):
        searched(plan)
    assert searched(plan)["finished"]
    assert states(plan) == ["finished"] * 3 + ["failed"] * 3


def test_when_the_time_is_up_it_says_that_there_is_more(
    tmp_path: Path, world: World, caplog: pytest.LogCaptureFixture
) -> None:
    plan = plan_at(tmp_path, trials=4, scheduler="none")
    world.room_for = 2
    result = searched(plan)
    assert not result["finished"]
    assert result["best"]["value"] == pytest.approx(0.81)
    assert "go on with mim-ray search --resume played" in caplog.text
    world.room_for = 99
    assert searched(plan)["finished"]
    assert states(plan) == ["finished"] * 4


def test_a_search_whose_time_is_up_can_come_to_its_end_with_what_there_is(
    tmp_path: Path, world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(room, "connected", lambda *_, **__: nullcontext())
    monkeypatch.setattr(room, "fitted", lambda plan, _: plan)
    words: dict[str, Any] = {"scheduler": "none", "finalists": 1, "seeds": 2}
    world.room_for = 2
    assert not searched(plan_at(tmp_path, trials=500, time_budget="0.001s", **words))["finished"]
    assert "after 3 of 500 trials its time is up, and it is not at its end" in caplog.text
    assert "--resume played; add trials=3 to go to the finals with these" in caplog.text
    world.room_for = 99
    result = room.resumed("played", str(tmp_path), None, {"trials": "3"}, address=None)
    assert result["finished"]
    assert [row["state"] for row in result["trials"]] == ["finished"] * 4
    assert (result["best"]["trial"], result["best"]["seeds"]) == (2, 2)


def test_how_busy_workers_were_is_of_all_sittings_that_trained(tmp_path: Path, world: World) -> None:
    plan = plan_at(tmp_path, trials=4, scheduler="none")
    world.room_for = 2
    first = searched(plan)["busy_share"]
    world.room_for = 99
    second = searched(plan)["busy_share"]
    seconds = json.loads(plan.folder.read(BUSY))
    assert second == round(seconds["trained"] / seconds["had"], 3)
    assert seconds["trained"] == pytest.approx(sum(one.seconds for one in Memory(plan.folder)), abs=1)
    assert first > 0
    plan.folder.remove(ANSWER)  # as where the winner's training was cut
    assert searched(plan)["busy_share"] == second


def test_a_sitting_in_which_nothing_is_found_says_why(tmp_path: Path, world: World) -> None:
    world.lost = {0, 1}
    with pytest.raises(Failure, match=f"no trial has a value of {KNN} yet: MLflow is away"):
        searched(plan_at(tmp_path, trials=2))


def test_a_winner_that_cannot_be_trained_takes_the_answer_not_along(
    tmp_path: Path, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = plan_at(tmp_path, trials=2, retrain=18)
    told: list[object] = []

    def retrained(_plan: Plan, words: dict[str, str], address: str | None) -> dict[str, Any]:
        told.extend([words, address])
        if len(told) == 2:
            raise Mistake("data.train=there: no such file")
        return {"steps": 18, "judged": None if len(told) == 4 else {KNN: 0.5}}

    monkeypatch.setattr(room, "retrained", retrained)
    plan.write()
    result = room._searched(plan, "ray://there")
    assert not result["finished"]
    assert result["best"]["trial"] == 1
    unjudged = room._searched(plan, "ray://there")
    assert (unjudged["finished"], unjudged["retrained"]["steps"]) == (False, 18)
    assert not plan.folder.has(ANSWER)
    again = room._searched(plan, "ray://there")
    assert (again["finished"], again["retrained"]) == (True, {"steps": 18, "judged": {KNN: 0.5}})
    assert told == [result["best"]["overrides"], "ray://there"] * 3
    assert world.sittings == 1


@pytest.mark.parametrize(
    ("winner", "said"),
    [
        (
            {"model": "found/2", "alias": "champion", "previous": "1"},
            "winner: found/2, trained for 8 steps, judged: eval/top1 0.7500\n"
            "promoted: it is champion now, before it version 1",
        ),
        (
            {"model": "found/1", "alias": "champion", "previous": None},
            "winner: found/1, trained for 8 steps, judged: eval/top1 0.7500\npromoted: it is champion now",
        ),
        (
            {"model": "found/2", "refusal": "it is not better"},
            "winner: found/2, trained for 8 steps, judged: eval/top1 0.7500\nnot promoted: it is not better",
        ),
        (
            {"model": None},
            "winner: c, trained for 8 steps, judged: eval/top1 0.7500\n"
            "not promoted: it is not registered, for want of tracking.model=",
        ),
        ({"model": "found/2", "judged": None}, "winner: found/2, trained for 8 steps, not judged yet"),
    ],
)
@pytest.mark.usefixtures("world")
def test_what_became_of_the_winner_is_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    winner: dict[str, Any], said: str,
) -> None:  # fmt: skip
    found = {"steps": 8, "checkpoint": "c", "judged": {"eval/top1": 0.75}, **winner}
    monkeypatch.setattr(room, "retrained", lambda *_: found)
    result = searched(plan_at(tmp_path, trials=2, retrain=18))
    monkeypatch.setattr(room, "resumed", lambda *_, **__: result)
    assert cli.run(["search", "--resume", "played"]) == 0
    assert capsys.readouterr().out.endswith(f"{said}\n")


def test_what_is_stopped_by_hand_can_be_gone_on_with(
    tmp_path: Path, world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Asked:
        by = 2

        def __bool__(self) -> bool:
            return True

    @contextmanager
    def asking() -> Iterator[Asked]:
        yield Asked()

    monkeypatch.setattr(room, "asking", asking)
    world.room_for = 1
    with caplog.at_level("INFO"), pytest.raises(SystemExit) as ended:
        searched(plan_at(tmp_path, trials=4, scheduler="none"))
    assert ended.value.code == 130
    assert "go on with mim-ray search --resume played" in caplog.text
