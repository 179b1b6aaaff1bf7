"""A process that logs until it is killed: `python log_steps.py FOLDER URI RUN`."""

import sys
import time
from itertools import count
from pathlib import Path

from mim_ray.tracking.journal import Journal

if __name__ == "__main__":
    folder, uri, run_id = sys.argv[1:]
    journal = Journal(Path(folder), uri, run_id)
    for step in count():
        journal.log(step, {"loss": 1 / (step + 1), "lr": step * 0.5})
        time.sleep(0.01)
