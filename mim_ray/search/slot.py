"""Ray Train workers that stay: they train one run after another, so that only the first one waits."""

import gc
import time
from typing import Any, NamedTuple

import ray
import ray.train
import ray.train.collective
import torch

from mim_ray.board import Board
from mim_ray.errors import Failure
from mim_ray.memory import give_back
from mim_ray.ray_room import Watch, resources_of_a_worker
from mim_ray.ray_train import Fit, placed_here, trainer_of, worked
from mim_ray.run import Run
from mim_ray.search.desk import Desk
from mim_ray.storage import Folder
from mim_ray.training.job import Job
from mim_ray.training.worker import Task, work

POLL_SECONDS = 0.1
LAST_WORD_SECONDS = 120.0
"""How long a run that is asked to stop may take for its checkpoint."""

END_SECONDS = 30.0
"""How long the workers may take to leave."""


class News(NamedTuple):
    said: list[str]
    numbers: dict[str, float]
    """How far the run is."""
    looks: list[tuple[int, dict[str, float]]]
    result: dict[str, Any] | None
    """What the run ended with."""
    refusal: tuple[str, str] | None
    """Why it cannot go on: the kind of error and its words."""


class Slot:
    """Room for one run at a time, of runs that ask for the same workers."""

    def __init__(self, run: Run, folder: Folder, task: Task = work) -> None:
        """`folder`: for Ray's own notes."""
        self._run, self._needed = run, resources_of_a_worker(run)
        self._desk = placed_here(Desk)
        self._board: Any = None
        self._number, self._step = 0, -1
        self._fit = Fit(trainer_of(run, self._needed, folder, _serve, {"desk": self._desk, "task": task}))
        self._fit.thread.start()

    def begin(self, job: Job, seen: int = -1) -> None:
        """`seen`: the step of the last look that is known."""
        if self._board is not None:
            ray.kill(self._board)
        self._board = placed_here(Board, job._asdict())
        self._number = ray.get(self._desk.give.remote([self._board]))
        self._step, self._watch = seen, Watch(self._run, self._needed)

    @property
    def has_left(self) -> bool:
        """Whether there is nobody to train anything: Ray Train has given up, or was lost."""
        return not self._fit.thread.is_alive()

    def news(self) -> News:
        """Of the run that was begun last; each look is told once."""
        if self.has_left:
            self._fit.check()
            raise Failure("the workers of a trial have left")
        result = ray.get(self._desk.result.remote(self._number))
        said, numbers, heard, _ = ray.get(self._board.news.remote())
        looks = ray.get(self._board.seen.remote(self._step)) if numbers else []
        refusal = ray.get(self._board.refusal.remote())
        self._watch.look(heard)
        if looks:
            self._step = looks[-1][0]
        if refusal is not None:
            ray.get(self._desk.finish.remote(self._number, {}))
        return News(said, numbers, looks, result, refusal)

    def stop(self) -> dict[str, Any] | None:
        """The run, after a checkpoint; what it ended with, or None if it does not answer."""
        ray.get(self._board.ask_to_stop.remote())
        deadline = time.monotonic() + LAST_WORD_SECONDS
        while time.monotonic() < deadline and not self.has_left:
            news = self.news()
            if news.result is not None or news.refusal is not None:
                return news.result or {}
            if not news.numbers:  # nothing has begun
                return None
            time.sleep(POLL_SECONDS)
        return None

    def close(self) -> None:
        """The workers leave, and what they held is free."""
        ray.get(self._desk.end.remote())
        self._fit.thread.join(END_SECONDS)


def _serve(config: dict[str, Any]) -> dict[str, Any]:
    """What every worker of a slot does; after a restart it begins with the run that is not finished."""
    desk, is_first = config["desk"], ray.train.get_context().get_world_rank() == 0
    number = ray.get(desk.finished.remote())
    while (turn := _next(desk, number)).boards:
        number = turn.number
        if ray.train.collective.broadcast_from_rank_zero(number) != number:
            raise RuntimeError("the workers were not handed the same run")  # Ray begins them anew
        result = worked(turn.boards[0], config["task"])
        if is_first and result:
            ray.get(desk.finish.remote(number, result))
        _tidy()
    return {}


class Turn(NamedTuple):
    number: int
    boards: list[Any]
    """One, or none where there will be no other."""


def _next(desk: Any, done: int) -> Turn:
    while (turn := ray.get(desk.turn.remote(done))) is None:
        time.sleep(POLL_SECONDS)
    return Turn(*turn)


def _tidy() -> None:
    """Nothing of a run is left to the next but what was compiled."""
    gc.collect()
    give_back()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
