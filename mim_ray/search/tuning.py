"""The door to Tune: trials in turn, each driven from the head, until the study has no more of them."""

import os
import threading
import time
from collections.abc import Callable
from typing import Any

from ray import tune
from ray.tune.callback import Callback
from ray.tune.stopper import Stopper

from mim_ray.errors import Failure
from mim_ray.ray_train import place_for_ray
from mim_ray.search.plan import Plan
from mim_ray.search.study import Remembering, Study
from mim_ray.search.trial import Trial
from mim_ray.training.asked import Asked

HEAD = "node:__internal_head__"
"""The resource that only the head node has: a driver that went with a worker's node would take its trial along."""

QUIET = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    "TUNE_RESULT_BUFFER_LENGTH": "0",
    "TUNE_GLOBAL_CHECKPOINT_S": "3600",  # what a search goes on from is its own memory
    "RAY_AIR_NEW_OUTPUT": "0",
}
LOOK_SECONDS = 1.0
CRASHES = 3
"""How often the process that drives a trial may be lost."""


class _Closing(Stopper):  # type: ignore[misc]
    def __init__(self, study: Study) -> None:
        self._study = study

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return self._study.closing

    def stop_all(self) -> bool:
        return self._study.closing


class _Words(Callback):  # type: ignore[misc]
    """Carries the warnings of the workers to whoever launched the search."""

    def __init__(self, say: Callable[[int, str], None]) -> None:
        self._say = say

    def on_trial_result(self, iteration: int, trials: Any, trial: Any, result: dict[str, Any], **_: Any) -> None:
        for words in result.get("said", ()):
            self._say(trial.config["number"], words)


def tuned(
    plan: Plan,
    study: Study,
    scheduler: Remembering,
    *,
    asked: Asked,
    deadline: float | None,
    look: Callable[[], None],
    say: Callable[[int, str], None],
) -> None:
    """Returns when all trials have ended, or soon after someone asked for it or the time is up (`deadline`, as
    time.monotonic has it); `look` is called all the while."""
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    tuner = tune.Tuner(
        tune.with_resources(
            tune.with_parameters(Trial, plan=plan), tune.PlacementGroupFactory([{"CPU": 0, HEAD: 0.001}])
        ),
        tune_config=tune.TuneConfig(
            search_alg=study,
            scheduler=scheduler,
            num_samples=-1,
            max_concurrent_trials=plan.concurrent,
            reuse_actors=True,
        ),
        run_config=tune.RunConfig(
            name=f"tune-{int(time.time() * 1000)}",
            **place_for_ray(plan.folder),
            stop=_Closing(study),
            callbacks=[_Words(say)],
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),  # a run has its own
            failure_config=tune.FailureConfig(max_failures=CRASHES),
            verbose=0,
        ),
    )
    errors: list[BaseException] = []

    def fit() -> None:
        try:
            tuner.fit()
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=fit, name="ray-tune", daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(LOOK_SECONDS)
        look()
        if asked or study.is_fruitless or (deadline is not None and time.monotonic() > deadline):
            study.closing = True
    look()
    if errors:
        raise Failure(f"Ray Tune gave up: {' '.join(str(errors[0]).split())[:500]}") from errors[0]
