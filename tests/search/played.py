"""A small search whose trials are made up, driven in the order in which Tune calls."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

from ray.tune.schedulers import TrialScheduler
from ray.tune.search import Searcher

from mim_ray.config import resolve
from mim_ray.search.advice import Adviser
from mim_ray.search.losses import Losses
from mim_ray.search.memory import Look, Memory, Record
from mim_ray.search.plan import Plan, Search
from mim_ray.search.space import Space
from mim_ray.search.study import SCORE, TRIAL, Remembering, Study, scheduler_for, score_of

KNN = "eval/knn_top1"
SPACE = """
from ray import tune

METHOD = "rmae"
SPACE = {
    "method.measure.penalty": tune.loguniform(0.01, 1.0),
    "method.t1.mask.ratio": tune.uniform(0.25, 0.75),
    "batch": tune.choice([32, 64]),
}
"""
Row = dict[str, Any]


def search_of(**words: object) -> Search:
    return resolve(Search(), {"metric": KNN, "name": "played", **words})


def plan_at(folder: Path, source: str = SPACE, **words: object) -> Plan:
    texts = {path: str(value) for path, value in {"metric": KNN, "name": "played", **words}.items()}
    return Plan("0", texts, "made_up", source, {"encoder": "micro"}, str(folder), 1, None, None, None, {})


def look(number: int, value: float, metric: str = KNN) -> Look:
    return {"look": number, "step": 10 * number, "epoch": number, metric: value}


def record(number: int, *values: float, state: Any = "finished", **draw: Any) -> Record:
    """One that was looked at after each epoch."""
    drawn = {"method.measure.penalty": 0.1, "method.t1.mask.ratio": 0.5, "batch": "32"} | draw
    looks = [look(epoch, value) for epoch, value in enumerate(values, 1)]
    return Record(number, drawn, {name: str(value) for name, value in drawn.items()}, state=state, looks=looks)


def seed_of(number: int, of: int, *values: float, state: str = "finished") -> Record:
    one = record(number, *values, state=state)
    one.of, one.seed = of, number
    return one


@dataclass(eq=False)
class Tried:
    trial_id: str
    record: Record
    rows: Iterator[Row]


class Played:
    """One sitting of a search: what is remembered in its folder is gone on with."""

    def __init__(self, plan: Plan, *, seed: int = 0, judging: bool = True) -> None:
        self.search, self.space = plan.search, plan.questions()
        self.memory = Memory(plan.folder)
        adviser = Adviser(self.search, self.space, seed) if judging else None
        self.study = Study(plan, self.space, self.memory, adviser, Losses())
        self.scheduler: Remembering = scheduler_for(self.search, self.study, self.memory, judging=judging)
        self.epochs = 0
        self._numbers = count()

    def begin(self, learnt: Callable[[Record], list[float]]) -> Tried | None:
        """`learnt`: what a trial is worth at each of its looks; the last one is its end."""
        trial_id = f"trial-{next(self._numbers)}"
        config = self.study.suggest(trial_id)
        if config == Searcher.FINISHED:
            return None
        found = self.memory.records[config[TRIAL]]
        trial = Tried(trial_id, found, rows_of(found, learnt(found), self.search))
        self.scheduler.on_trial_add(None, trial)
        return trial

    def go_on(self, trial: Tried) -> bool:
        """By a row; whether there is more to come."""
        row = next(trial.rows)
        self.epochs += "look" in row and row["look"] > 0
        stop = row.get("done") or self.study.closing
        if not stop:
            stop = self.scheduler.on_trial_result(None, trial, row) == TrialScheduler.STOP
        if stop:
            self.scheduler.on_trial_complete(None, trial, row)
            self.study.on_trial_complete(trial.trial_id, row)
        else:
            self.study.on_trial_result(trial.trial_id, row)
        return not stop

    def play(self, learnt: Callable[[Record], list[float]], at_once: int = 1) -> None:
        """To the end, so many in turns."""
        running: list[Tried] = []
        while True:
            while len(running) < at_once and (trial := self.begin(learnt)) is not None:
                running.append(trial)
            if not running:
                return
            trial = running.pop(0)
            if self.go_on(trial):
                running.append(trial)


def rows_of(known: Record, values: list[float], search: Search) -> Iterator[Row]:
    """As a trial tells of itself, a word without a look among them; Tune has flattened what was nested."""
    seen = known.looks[-1]["look"] if known.looks else 0
    for number, value in enumerate(values, 1):
        if number <= seen:
            continue
        yield {"look": -1, "step": 10 * number - 5, "steps": 10 * len(values), "seconds": 1.0}
        found = look(number, value, search.metric[0])
        score = score_of(search, found)
        yield {f"found/{name}": one for name, one in found.items()} | {
            "look": number, "step": 10 * number, "steps": 10 * len(values), "seconds": 2.0 * number,
            "run_id": f"run-{known.number}", SCORE: score,
        }  # fmt: skip
    yield {"look": -1, "over": "finished", "done": True}


def made_up(space: Space, draw: dict[str, Any]) -> Record:
    return Record(0, draw, space.words(draw))
