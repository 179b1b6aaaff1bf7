"""The door to Ray Train: the workers of a run on a cluster, restarted until it is done."""

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import ray
import ray.train.torch
from ray.train import FailureConfig, LoggingConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer

from mim_ray.board import Board
from mim_ray.errors import Failure, Mistake
from mim_ray.run import Run
from mim_ray.training.asked import asking
from mim_ray.training.job import Job
from mim_ray.training.live import Live
from mim_ray.training.place import Notice, Place
from mim_ray.training.worker import work

Task = Callable[[Job, Place], dict[str, Any]]
LOOK_SECONDS = 0.3
LAST_WORD_SECONDS = 60.0
"""How long a run that is asked to stop may take for its checkpoint."""


def on_ray(job: Job, task: Task = work) -> dict[str, Any]:
    """Inside `connected`; `task` is what every worker does with the job."""
    run = job.run
    needed = resources_of_a_worker(run)
    check_room(run, needed)
    board = ray.remote(num_cpus=0)(Board).remote()
    trainer = TorchTrainer(
        _work,
        train_loop_config={"job": job._asdict(), "board": board, "task": task},
        torch_config=TorchConfig(backend="nccl" if needed.get("GPU") else "gloo"),
        scaling_config=ScalingConfig(
            num_workers=run.least_workers if ":" not in run.workers else (run.least_workers, run.most_workers),
            use_gpu=bool(needed.get("GPU")),
            resources_per_worker=needed,
        ),
        run_config=RunConfig(
            name=f"attempt-{int(time.time() * 1000)}",
            storage_path=_place_for_ray(job),
            failure_config=FailureConfig(max_failures=-1),
            logging_config=LoggingConfig(log_level="ERROR"),
        ),
    )
    result = _fitted(trainer, board, run)
    refusal = ray.get(board.refusal.remote())
    if refusal is not None:
        kind, words = refusal
        raise Mistake(words) if kind == "Mistake" else Failure(words)
    return result


def _work(config: dict[str, Any]) -> dict[str, Any]:
    """What every worker runs."""
    board = config["board"]
    if ray.get(board.refusal.remote()) is not None:
        return {}
    context = ray.train.get_context()
    place = Place(
        rank=context.get_world_rank(),
        world=context.get_world_size(),
        device=ray.train.torch.get_device(),
        report=ray.train.report,
        notice=_Ear(board),
        tell=lambda numbers: board.tell.remote({**numbers, "workers": context.get_world_size()}),
    )
    try:
        task: Task = config["task"]
        return task(Job(**config["job"]), place)
    except (Mistake, Failure) as error:
        ray.get(board.refuse.remote(type(error).__name__, f"{error}{_where(context)}"))
        raise
    except Exception as error:
        ray.get(board.failed.remote(f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"))
        raise


class _Ear:
    """Listens for notices; asks the board no more than a few times a second."""

    def __init__(self, board: Any) -> None:
        self._board, self._asked_at, self._stop = board, 0.0, False

    def __call__(self) -> Notice:
        if time.monotonic() - self._asked_at > LOOK_SECONDS:
            self._asked_at = time.monotonic()
            self._stop = ray.get(self._board.is_asked_to_stop.remote())
        if self._stop:
            return Notice.STOP
        return Notice.SOON if ray.train.get_preemption_info() is not None else Notice.NONE


def _fitted(trainer: TorchTrainer, board: Any, run: Run) -> dict[str, Any]:
    """Waits for the end in a thread, so that this one can show progress and hear signals."""
    outcome: dict[str, Any] = {}

    def fit() -> None:
        try:
            outcome["result"] = trainer.fit().return_value
        except Exception as error:
            outcome["error"] = error

    thread = threading.Thread(target=fit, name="ray-train", daemon=True)
    with asking() as asked, Live(run.name) as live:
        thread.start()
        patience = LAST_WORD_SECONDS
        while thread.is_alive():
            thread.join(LOOK_SECONDS)
            if numbers := ray.get(board.heard.remote()):
                live.tell(numbers)
            if asked:
                board.ask_to_stop.remote()
                patience -= LOOK_SECONDS
            if patience < 0:
                raise Failure("the run was asked to stop and did not answer: it goes on from its last checkpoint")
    if "error" in outcome and ray.get(board.refusal.remote()) is None:
        raise Failure(f"Ray Train gave up: {' '.join(str(outcome['error']).split())[:500]}") from outcome["error"]
    return (outcome.get("result") or {}) | {"asked": asked.by}


@contextmanager
def connected(address: str | None) -> Iterator[None]:
    """To the cluster given, that of RAY_ADDRESS, or one of this machine that ends with the run."""
    if ray.is_initialized():
        yield
        return
    address = address or os.environ.get("RAY_ADDRESS")
    try:
        if address:
            ray.init(address=address, log_to_driver=False, logging_level="ERROR")
        else:
            ray.init(address="local", log_to_driver=False, logging_level="ERROR", include_dashboard=False)
    except (ConnectionError, RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise Failure(
            f"no Ray cluster at {address or 'this machine'} ({reason}): start one, or leave --address out"
        ) from None
    try:
        yield
    finally:
        ray.shutdown()


def resources_of_a_worker(run: Run) -> dict[str, float]:
    """What one worker takes; GPUs by themselves where the cluster has them."""
    there = ray.cluster_resources()
    gpus = run.gpus_per_worker
    if gpus is None:
        gpus = 1.0 if there.get("GPU") or (_most() or {}).get("GPU") else 0.0
    cpus = run.cpus_per_worker
    if cpus is None:
        cpus = 1 if _most() else max(1, int(there.get("CPU", 1)) // run.most_workers)
    needed: dict[str, float] = {"CPU": cpus} | ({"GPU": gpus} if gpus else {})
    for item in run.resources:
        name, _, amount = item.partition(":")
        try:
            needed[name] = float(amount or 1)
        except ValueError:
            raise Mistake(f"resources={item}: expected NAME:AMOUNT, as in a100:1") from None
    return needed


def check_room(run: Run, needed: dict[str, float]) -> None:
    """Refuses what the cluster could never give, for Ray would wait for ever."""
    there = dict(ray.cluster_resources())
    most = {**there, **{name: max(amount, there.get(name, 0)) for name, amount in (_most() or {}).items()}}
    short = {name: amount * run.least_workers for name, amount in needed.items()}
    short = {name: amount for name, amount in short.items() if amount > most.get(name, 0)}
    if short:
        asked = ", ".join(f"{amount:g} {name}" for name, amount in short.items())
        has = ", ".join(f"{most.get(name, 0):g} {name}" for name in short)
        raise Mistake(
            f"workers={run.workers}: {run.least_workers} workers need {asked} and the cluster has {has} at most: "
            "lower workers=, cpus_per_worker= or gpus_per_worker="
        )


def _most() -> dict[str, float] | None:
    """What an autoscaling cluster may grow to; None: it does not grow."""
    try:
        most: dict[str, float] | None = ray._private.state.state.get_max_resources_from_cluster_config()
        return most
    except Exception:  # a private word of Ray's, which may go
        return None


def _place_for_ray(job: Job) -> str:
    folder = job.folder.below("ray")
    return folder.url if folder.local is None else str(folder.local.absolute())


def _where(context: Any) -> str:
    return (
        f" (worker {context.get_world_rank()} of {context.get_world_size()}, on {ray.util.get_node_ip_address()})"
    )
