"""One sitting of a search: all trials that are open, and then the finalists with further seeds."""

import logging
import time

from mim_ray.errors import Failure
from mim_ray.search.advice import Adviser
from mim_ray.search.answer import last_reason, lost
from mim_ray.search.home import Home
from mim_ray.search.live import Live
from mim_ray.search.losses import TRIES, Losses
from mim_ray.search.memory import Memory
from mim_ray.search.plan import Plan
from mim_ray.search.results import ranked
from mim_ray.search.study import Study, scheduler_for
from mim_ray.search.tuning import tuned
from mim_ray.training.asked import Asked

logger = logging.getLogger("mim_ray")


class Sitting:
    """Ends when all have ended, or when someone asks for it or the time is up."""

    def __init__(self, plan: Plan, memory: Memory, home: Home, asked: Asked) -> None:
        self._plan, self._memory, self._home, self._asked = plan, memory, home, asked
        self._search, self._space, self._losses = plan.search, plan.questions(), Losses()
        seconds = self._search.seconds
        self._deadline = None if seconds is None else time.monotonic() + seconds

    def is_done(self) -> bool:
        """Whether all have come to an end once it is over."""
        self._give_up_the_hopeless()
        self._reopen_the_lost()
        if not self._is_over(judging=True):
            return False
        self._name_finalists()
        return self._is_over(judging=False)

    def _is_over(self, *, judging: bool) -> bool:
        """Whether this part is once it was driven; what was lost is tried again in it, if only others learnt."""
        while True:
            study = self._study(judging=judging)
            if not study.is_done:
                self._drive(study, judging=judging)
            if self._losses.is_fruitless:
                self._forgive()
                raise Failure(
                    f"trial after trial comes to nothing; the last one: {last_reason(self._memory)}: "
                    f"go on with mim-ray search --resume {self._plan.name}"
                )
            if not study.is_done:
                return False
            self._give_up_the_hopeless()
            if not lost(self._memory):
                return True
            if self._asked or not self._losses.is_fruitful:
                return False
            self._reopen_the_lost()

    def _study(self, *, judging: bool) -> Study:
        seed = int(self._plan.fixed.get("seed", 0))
        adviser = Adviser(self._search, self._space, seed) if judging else None
        return Study(self._plan, self._space, self._memory, adviser, self._losses)

    def _drive(self, study: Study, *, judging: bool) -> None:
        most = self._search.trials if judging else len(self._memory.records)
        with Live(self._search, self._plan.name, self._memory, most) as live:

            def look() -> None:
                news, study.news = study.news, []
                live.tell(news, study.progress)
                self._home.tell(self._memory)

            tuned(
                self._plan,
                study,
                scheduler_for(self._search, study, self._memory, judging=judging),
                asked=self._asked,
                deadline=self._deadline,
                look=look,
                say=lambda number, words: logger.warning("trial %d: %s", number, words),
            )

    def _forgive(self) -> None:
        for record in self._losses.forgiven():
            self._memory.keep(record)

    def _give_up_the_hopeless(self) -> None:
        """What is lost again and again is lost by its own fault."""
        for record in lost(self._memory):
            if record.losses >= TRIES:
                logger.warning("trial %d is left out, lost %d times: %s", record.number, TRIES, record.reason)
                record.state = "failed"
                self._memory.keep(record)

    def _reopen_the_lost(self) -> None:
        """Another try may have more luck."""
        for record in lost(self._memory):
            record.state = "waiting"
            self._memory.keep(record)

    def _name_finalists(self) -> None:
        """The best, with further seeds; where too few came to the end the best of the others go on to it."""
        rivals = ranked((record for record in self._memory if record.of is None), self._search)
        there = {(record.of, record.seed) for record in self._memory}
        for record in rivals[: self._search.finalists]:
            if record.state == "stopped":
                record.state = "waiting"
                self._memory.keep(record)
            for seed in range(1, self._search.seeds):
                if (record.number, seed) not in there:
                    self._memory.add(record.draw, record.words, seed=seed, of=record.number)
