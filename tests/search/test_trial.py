"""A trial as Tune sees it, with a slot that is made up."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mim_ray.errors import Failure, Mistake
from mim_ray.search import trial as room
from mim_ray.search.memory import Memory, known
from mim_ray.search.plan import Plan
from mim_ray.search.slot import News
from mim_ray.search.study import SCORE, TRIAL
from mim_ray.search.trial import Trial
from mim_ray.training.job import Job
from tests.search.played import KNN, plan_at

FIXED = {"encoder": "micro", "data.train": "sample:shapes:n=64", "workers": "0", "epochs": "9"}


class MadeUpSlot:
    """Says what it was told to say, and answers a request to stop unless it hangs."""

    made: list["MadeUpSlot"]
    news_of: Iterator[News]
    hangs = False

    def __init__(self, *_: object) -> None:
        self.jobs: list[Job] = []
        self.closed = self.has_left = False
        self.made.append(self)

    def begin(self, job: Job, seen: int = -1) -> None:
        self.jobs.append(job)

    def news(self) -> News:
        return next(self.news_of)

    def stop(self) -> dict[str, Any] | None:
        return None if self.hangs else {"finished": False}

    def close(self) -> None:
        self.closed = True


def news(*, step: float | None = None, look: float | None = None, refusal: tuple[str, str] | None = None) -> News:
    numbers = {} if step is None else {"step": step, "steps": 36.0}
    looks = [] if look is None else [(int(step or 0), {KNN: look})]
    return News([], numbers, looks, None, refusal)


@pytest.fixture
def slot(monkeypatch: pytest.MonkeyPatch) -> type[MadeUpSlot]:
    slot = type("Slot", (MadeUpSlot,), {"made": [], "news_of": iter(())})
    monkeypatch.setattr(room, "Slot", slot)
    monkeypatch.setattr(room, "ANSWER_SECONDS", 0.0)
    monkeypatch.setattr(room, "POLL_SECONDS", 0.0)
    monkeypatch.setattr("mim_ray.search.patience.PAUSES", (0.0,))
    return slot


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    plan = plan_at(tmp_path)._replace(fixed=FIXED)
    plan.write()
    memory = Memory(plan.folder)
    for penalty in (0.1, 0.2, 0.3):
        draw = {"method.measure.penalty": penalty, "method.t1.mask.ratio": 0.5, "batch": "32"}
        memory.add(draw, plan.questions().words(draw))
    return plan


def begun(plan: Plan) -> Trial:
    trial = object.__new__(Trial)  # without Tune's folders
    trial.setup({TRIAL: 0}, plan)
    return trial


def rows(trial: Trial, slot: type[MadeUpSlot], *said: News) -> list[dict[str, Any]]:
    slot.news_of = iter(said)
    return [next_row(trial, slot) for _ in said]


def next_row(trial: Trial, slot: type[MadeUpSlot]) -> dict[str, Any]:
    trial._listen(slot.made[-1])  # type: ignore[arg-type]
    return trial.step()


def test_it_tells_how_far_it_is_once_it_knows(plan: Plan, slot: type[MadeUpSlot]) -> None:
    trial = begun(plan)
    nothing, first, later = rows(trial, slot, news(), news(step=4.0), news(step=8.0))
    assert nothing["seconds"] == 0.0
    assert "left" not in nothing | first
    assert (later["step"], later["steps"]) == (8.0, 36.0)
    assert later["left"] == pytest.approx(later["seconds"] / 4 * 28, rel=0.2)


def test_only_what_it_has_learnt_is_a_score(plan: Plan, slot: type[MadeUpSlot]) -> None:
    trial = begun(plan)
    drawn, learnt = rows(trial, slot, news(step=0.0, look=0.6), news(step=36.0, look=0.7))
    assert drawn["found"][KNN] == 0.6
    assert SCORE not in drawn
    assert learnt[SCORE] == 0.7
    assert learnt["found"]["cost/parameters"] > 0


@pytest.mark.parametrize(
    ("kind", "step", "over", "has_begun"),
    [
        ("Failure", None, "lost", False),
        ("Failure", 0.0, "lost", True),
        ("Mistake", None, "lost", True),
        ("Diverged", 4.0, "failed", True),
    ],
)
def test_what_diverges_has_failed_and_all_else_may_have_more_luck(
    plan: Plan, slot: type[MadeUpSlot], kind: str, step: float | None, over: str, has_begun: bool
) -> None:
    (row,) = rows(begun(plan), slot, news(step=step, refusal=(kind, "no room")))
    assert (row["over"], row["reason"], row["done"]) == (over, "no room", True)
    assert row["begun"] == has_begun


def test_workers_that_are_no_more_are_told_in_words(
    plan: Plan, slot: type[MadeUpSlot], monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(_: object) -> News:
        raise Failure("Ray Train gave up: no node")

    monkeypatch.setattr(slot, "news", gone)
    monkeypatch.setattr(room, "ANSWER_SECONDS", 9.0)
    row = begun(plan).step()
    assert (row["over"], row["reason"], row["done"]) == ("lost", "Ray Train gave up: no node", True)


@pytest.mark.parametrize("refusal", [None, "Ray Train gave up: no node"])
def test_the_next_trial_has_other_workers_where_those_before_have_left(
    plan: Plan, slot: type[MadeUpSlot], refusal: str | None
) -> None:
    trial = begun(plan)
    first = slot.made[0]
    trial._refusal, first.has_left = refusal, True
    assert trial.reset_config({TRIAL: 1})
    assert first.closed
    assert [job.run.name for job in slot.made[1].jobs] == ["played-001"]
    assert trial.reset_config({TRIAL: 2})
    assert len(slot.made) == 2


def test_a_slot_that_does_not_answer_costs_the_next_trial_nothing(plan: Plan, slot: type[MadeUpSlot]) -> None:
    trial = begun(plan)
    first = slot.made[0]
    assert trial.reset_config({TRIAL: 1})
    assert [job.run.name for job in first.jobs] == ["played-000", "played-001"]
    slot.hangs = True
    assert trial.reset_config({TRIAL: 2})
    assert first.closed
    assert [job.run.name for job in slot.made[1].jobs] == ["played-002"]


def test_nobody_else_trains_a_run_while_it_is_tried(plan: Plan, slot: type[MadeUpSlot]) -> None:
    trial = begun(plan)
    folders = [plan.runs.below(f"played-00{number}") for number in (0, 1)]
    with pytest.raises(Mistake, match="it is taken"), folders[0].held("it is taken"):
        pass
    with folders[1].held("another has it"):
        trial.reset_config({TRIAL: 1})
        row = trial.step()
    assert (row["over"], row["reason"]) == ("lost", "played-001 is being trained by another process")
    trial.reset_config({TRIAL: 1})
    with folders[0].held("free again"):
        trial.cleanup()
    with folders[1].held("free again"):
        assert slot.made[-1].closed


def test_a_search_that_was_moved_goes_on_where_it_lies(plan: Plan, slot: type[MadeUpSlot], tmp_path: Path) -> None:
    begun(plan).cleanup()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (tmp_path / "played").rename(elsewhere / "played")
    moved = plan._replace(storage=str(elsewhere))
    job = room.job_of_trial(moved, known(moved.folder, 0))
    assert job.folder.url == f"{elsewhere}/played/runs/played-000"
    assert slot.made


@pytest.mark.usefixtures("slot")
@pytest.mark.parametrize(("cores", "said", "now"), [(8, {}, "8"), (None, {"cpus_per_worker": "4"}, "4")])
def test_a_trial_goes_on_with_the_cores_of_this_sitting(
    plan: Plan, cores: int | None, said: dict[str, str], now: str
) -> None:
    begun(plan._replace(cores=16)).cleanup()
    later = plan._replace(cores=cores, fixed={**plan.fixed, **said})
    assert room.job_of_trial(later, known(plan.folder, 0)).overrides["cpus_per_worker"] == now


def test_what_cannot_be_begun_says_so(plan: Plan, slot: type[MadeUpSlot], monkeypatch: pytest.MonkeyPatch) -> None:
    def away(*_: object) -> Job:
        raise Failure("MLflow is away")

    monkeypatch.setattr(room, "job_of_trial", away)
    row = begun(plan).step()
    assert (row["over"], row["reason"]) == ("lost", "MLflow is away")
    assert not slot.made
