"""Steps that are left out since a loss was not finite: how often, which, and what they were trained on."""

import json
import logging
from typing import Any

from mim_ray.data.loader import Loader
from mim_ray.errors import Diverged
from mim_ray.training.job import Job
from mim_ray.training.reporter import Reporter

logger = logging.getLogger("mim_ray.training")
SKIPS = 3
"""How often a run may step over a batch whose loss is not finite."""

SAMPLES = "not-finite.json"
"""In a run's folder: of each step that is left out the samples of its batch."""

NAMED = 16
"""How many of them a line names."""


class NotFinite(Exception):
    """A loss at `step`; raised on every worker at once."""

    def __init__(self, step: int) -> None:
        super().__init__(step)
        self.step = step


class Skips:
    """The same on every worker."""

    def __init__(self, job: Job, loader: Loader, reporter: Reporter) -> None:
        self._job, self._loader, self._reporter = job, loader, reporter
        self.steps: set[int] = set()
        self.rewinds = 0

    def restore(self, state: dict[str, Any]) -> None:
        """A checkpoint of before a skip knows nothing of it."""
        self.steps |= set(state["skipped"])
        self.rewinds = max(self.rewinds, state["rewinds"])

    def add(self, bad: int) -> None:
        """The step whose loss was not finite, and the one before it, whose update may have spoiled the weights."""
        self.steps |= {bad - 1, bad}
        self._write_samples()
        if self.rewinds == SKIPS:
            named = list(map(str, self._samples(bad)))
            raise Diverged(
                f"the loss was not finite {SKIPS + 1} times, the last time at step {bad}, with samples "
                f"{', '.join(named[:NAMED])}{' …' * (len(named) > NAMED)} of {self._job.run.data.train}: "
                "lower optim.blr, set optim.clip, or look at the samples of all steps that were left out, in "
                f"{self._job.folder.url}/{SAMPLES}"
            )
        self.rewinds += 1

    def _samples(self, step: int) -> list[int]:
        """Of the whole batch, as they are numbered in the set."""
        return self._loader.share(step)[1].tolist()  # type: ignore[no-any-return]

    def _write_samples(self) -> None:
        if self._reporter.place.rank != 0:
            return
        text = json.dumps({step: self._samples(step) for step in sorted(self.steps) if step >= 0})
        try:
            self._job.folder.write(SAMPLES, text.encode())
        except Exception as error:  # of any file system; what the run does next matters more
            logger.warning("%s/%s is not written: %s", self._job.folder.url, SAMPLES, error)
        self._reporter.document(SAMPLES, text)
