"""A server or a disk that is away for a moment costs no trial."""

import logging
import time
from collections.abc import Callable
from typing import TypeVar

from mim_ray.errors import Failure

logger = logging.getLogger("mim_ray")
PAUSES = (2.0, 10.0, 30.0)
"""Before something is tried again."""

Done = TypeVar("Done")


def patiently(do: Callable[[], Done]) -> Done:
    for pause in PAUSES:
        try:
            return do()
        except (Failure, OSError) as trouble:
            logger.warning("%s: it is tried again", trouble)
            time.sleep(pause)
    return do()
