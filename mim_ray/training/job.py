"""What travels to a worker: a name and overrides, never objects."""

import json
import logging
from collections.abc import Mapping
from typing import Any, NamedTuple

from mim_ray.errors import without_secrets
from mim_ray.methods import resolved
from mim_ray.run import Run
from mim_ray.storage import Folder

logger = logging.getLogger("mim_ray.training")
JOB = "run.json"
"""The job, in its run's folder."""

CHECKPOINTS = "checkpoints"
"""The folder of them, beside it."""

START = "start.safetensors"
"""Beside it, the weights that the run begins with, where they are a model's."""


class Job(NamedTuple):
    method: str
    overrides: Mapping[str, str]
    """As text, the name of the run among them."""
    tracking_uri: str | None = None
    """None: nothing is logged."""
    run_id: str | None = None

    @property
    def run(self) -> Run:
        return resolved(self.method, self.overrides)

    @property
    def sentence(self) -> tuple[str, dict[str, str]]:
        """The method and what was changed of it: what weights are of."""
        return self.method, {path: value for path, value in self.overrides.items() if path.startswith("method.")}

    @property
    def folder(self) -> Folder:
        return Folder(self.run.storage).below(self.run.name)

    def keep(self) -> None:
        """In its folder what it goes on with, where a resume has changed that. No run ends for it."""
        folder, content = self.folder, self.as_json().encode()
        try:
            if folder.has(JOB) and folder.read(JOB) != content:
                folder.write(JOB, content)
        except Exception as error:  # of any file system
            logger.warning("%s/%s keeps the words of before: %s", folder.url, JOB, error)

    def as_json(self) -> str:
        """For a file: without the password that an address from the environment may hold."""
        uri = None if self.tracking_uri is None else without_secrets(self.tracking_uri)
        return json.dumps(self._replace(tracking_uri=uri)._asdict(), indent=1)


def job_of(content: bytes) -> Job:
    values: dict[str, Any] = json.loads(content)
    return Job(**values)
