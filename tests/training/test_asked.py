"""`mim-ray train` in a process of its own that is asked to stop."""

import signal
import subprocess
import sys
import time
from pathlib import Path

from tests.training.runs import SMALL

SECONDS = 200.0


def test_a_run_ends_after_a_checkpoint_and_says_how_to_go_on(tmp_path: Path) -> None:
    changes = {"name": "run", "steps": 4000, "checkpoint.every_steps": 3000, "workers": 0}
    words = [f"{path}={value}" for path, value in {**SMALL, **changes}.items()]
    driver = subprocess.Popen(
        [sys.executable, "-m", "mim_ray", "train", "mae", *words, "--no-track"],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        checkpoints, deadline = tmp_path / "runs" / "run" / "checkpoints", time.monotonic() + SECONDS
        while not (checkpoints / "step-000000000").exists():
            assert driver.poll() is None, driver.communicate()[1]
            assert time.monotonic() < deadline
            time.sleep(0.1)
        time.sleep(1)
        driver.send_signal(signal.SIGTERM)
        _, complained = driver.communicate(timeout=SECONDS)
    finally:
        driver.kill()
        driver.communicate()
    assert driver.returncode == 143, complained
    assert "stopped after a checkpoint: go on with mim-ray train --resume run" in complained
    newest = max(path.name for path in checkpoints.iterdir())
    assert 0 < int(newest.removeprefix("step-")) < 3000
