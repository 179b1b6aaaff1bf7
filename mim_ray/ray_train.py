"""The door to Ray Train: the workers of a run on a cluster, restarted until it is done."""

import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from typing import Any

import ray
import ray.train.torch
from ray.exceptions import AuthenticationError, RayActorError
from ray.train import FailureConfig, LoggingConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from mim_ray.board import Board
from mim_ray.errors import Diverged, Failure, Mistake, Overtaken
from mim_ray.ray_group import OwnGroup, group
from mim_ray.ray_room import Watch, check_room, free_what_the_dead_hold, resources_of_a_worker
from mim_ray.ray_token import settle_token
from mim_ray.run import Run
from mim_ray.storage import Folder
from mim_ray.training.asked import asking
from mim_ray.training.job import JOB, Job
from mim_ray.training.live import Live
from mim_ray.training.place import Notice, Numbers, Place, nothing
from mim_ray.training.worker import Task, work

logger = logging.getLogger("mim_ray")
LOOK_SECONDS = 1.0
RESIZE_SECONDS = 60.0
"""How often Ray looks whether an elastic run can grow; to grow is to go on from the last checkpoint."""

SHRINK_SECONDS = "20"
"""How long an elastic run waits for a node that it thinks is there, before it goes on with fewer."""

LAST_WORD_SECONDS = 60.0
"""How long a run that is asked to stop may take for its checkpoint."""


def on_ray(job: Job, task: Task = work) -> dict[str, Any]:
    """Inside `connected`; `task` is what every worker does with the job."""
    run = job.run
    needed = resources_of_a_worker(run)
    check_room(run, needed)
    board = placed_here(Board, job._asdict())
    if run.least_workers < run.most_workers:
        os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", SHRINK_SECONDS)
    trainer = trainer_of(run, needed, job.folder, _work, {"board": board, "task": task})
    try:
        result = _fitted(trainer, board, run, needed)
        refusal = ray.get(board.refusal.remote())
    except RayActorError:
        raise Failure(
            f"the process that the workers report to was lost: go on with mim-ray train --resume {run.name}"
        ) from None
    if refusal is not None:
        kind, words = refusal
        raise {"Mistake": Mistake, "Overtaken": Overtaken}.get(kind, Failure)(words)
    return result


def trainer_of(
    run: Run,
    needed: dict[str, float],
    folder: Folder,
    loop: Callable[[dict[str, Any]], dict[str, Any]],
    config: dict[str, Any],
) -> TorchTrainer:
    """The workers that a run asks for, each in `loop`, begun again as often as one is lost; `folder`: where Ray's
    own notes go."""
    return TorchTrainer(
        loop,
        train_loop_config=config,
        torch_config=OwnGroup(),
        scaling_config=ScalingConfig(
            num_workers=run.least_workers if ":" not in run.workers else (run.least_workers, run.most_workers),
            use_gpu=bool(needed.get("GPU")),
            resources_per_worker=needed,
            elastic_resize_monitor_interval_s=RESIZE_SECONDS,
        ),
        run_config=RunConfig(
            name=f"attempt-{int(time.time() * 1000)}",
            **place_for_ray(folder),
            failure_config=FailureConfig(max_failures=-1),
            logging_config=LoggingConfig(log_level="ERROR"),
        ),
    )


def _work(config: dict[str, Any]) -> dict[str, Any]:
    """What every worker runs."""
    return worked(config["board"], config["task"])


def worked(board: Any, task: Task) -> dict[str, Any]:
    """The task of the board's job, by this worker."""
    if ray.get(board.refusal.remote()) is not None:
        return {}
    context = ray.train.get_context()
    if context.get_world_rank() == 0:
        if words := ray.get(board.begins.remote(context.get_world_size())):
            raise Failure(words)
        wait(ray.get(board.pause.remote()), lambda: ray.get(board.asks.remote())[0])  # the others: in the group
    number = ray.get(board.number.remote())

    def tell(numbers: Numbers) -> None:
        board.tell.remote({**numbers, "workers": context.get_world_size()})

    place = Place(
        rank=context.get_world_rank(),
        world=context.get_world_size(),
        device=ray.train.torch.get_device(),
        report=ray.train.report,
        notice=_Ear(board),
        tell=tell if context.get_world_rank() == 0 else nothing,
        see=lambda step, found: board.see.remote(step, dict(found)),
        is_over=lambda: ray.get(board.asks.remote())[0],
    )
    voice = _Voice(board)
    logger.addHandler(voice)
    try:
        job = Job(**ray.get(board.job.remote()))
        with group(place.rank, place.world, "nccl" if place.device.type == "cuda" else "gloo"):
            if not is_there(job.folder):
                raise Mistake(
                    f"{job.folder.url} is not there: expected storage= that every machine of the cluster sees"
                )
            return task(job, place)
    except Mistake as mistake:
        ray.get(board.mistaken.remote(str(mistake), _where(context)))
        raise
    except Overtaken as overtaken:
        ray.get(board.overtaken.remote(f"{overtaken}{_where(context)}", number))
        raise
    except Diverged as refusal:
        ray.get(board.refuse.remote(Diverged.__name__, f"{refusal}{_where(context)}"))
        raise
    except (Failure, OSError) as refusal:
        ray.get(board.refused.remote(str(refusal), _where(context)))
        raise
    except Exception as error:
        ray.get(board.failed.remote(f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"))
        raise
    finally:
        logger.removeHandler(voice)


def wait(seconds: float, is_over: Callable[[], bool], sleep: Callable[[float], None] = time.sleep) -> None:
    """A look at a time: whoever asks for the end does not wait for it."""
    while seconds > 0 and not is_over():
        sleep(min(seconds, LOOK_SECONDS))
        seconds -= LOOK_SECONDS


def is_there(folder: Folder) -> bool:
    """A run's. A disk that does not answer raises, of which `has` alone would say that nothing is there."""
    if folder.has(JOB):
        return True
    with suppress(FileNotFoundError):
        return bool(folder.read(JOB))
    return False


def placed_here(actor: type, *of: object) -> Any:
    """An actor beside whoever asks for it, for any other node may go."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return ray.remote(num_cpus=0, scheduling_strategy=here)(actor).remote(*of)


class _Voice(logging.Handler):
    """Carries the warnings of a worker to whoever launched it."""

    def __init__(self, board: Any) -> None:
        super().__init__(logging.WARNING)
        self._board = board

    def emit(self, record: logging.LogRecord) -> None:
        self._board.say.remote(record.getMessage())


class _Ear:
    """Listens for notices."""

    def __init__(self, board: Any) -> None:
        self._board = board

    def __call__(self) -> Notice:
        soon = ray.train.get_preemption_info() is not None  # waits for every worker, so each has to ask
        stop, change_is_near = ray.get(self._board.asks.remote())
        if stop:
            return Notice.STOP
        if soon:
            return Notice.SOON
        return Notice.CHANGE if change_is_near else Notice.NONE


def _fitted(trainer: TorchTrainer, board: Any, run: Run, needed: dict[str, float]) -> dict[str, Any]:
    """Waits for the end in a thread, so that this one can show progress and hear signals."""
    fit = Fit(trainer)
    with asking() as asked, Live(run.name) as live:
        fit.thread.start()
        patience, watch = LAST_WORD_SECONDS, Watch(run, needed)
        while fit.thread.is_alive():
            fit.thread.join(LOOK_SECONDS)
            said, numbers, heard, is_refused = ray.get(board.news.remote())
            for words in said:
                logger.warning(words)
            if numbers:
                live.tell(numbers)
            watch.look(heard)
            if numbers and (more := watch.sees_room_for_more_than(int(numbers["workers"]))) is not None:
                board.make_ready.remote(more)
            if asked:
                board.ask_to_stop.remote()
                if not numbers:
                    raise SystemExit(128 + int(asked.by or 0))  # there is nothing to be saved yet
            if asked or is_refused:
                patience -= LOOK_SECONDS
            if patience < 0:
                break
    if fit.thread.is_alive() and ray.get(board.refusal.remote()) is None:
        raise Failure("the run was asked to stop and did not answer: it goes on from its last checkpoint")
    if ray.get(board.refusal.remote()) is None:
        fit.check()
    return (fit.result or {}) | {"asked": asked.by}


class Fit:
    """Ray Train at work in a thread, to be started by whoever waits for it."""

    def __init__(self, trainer: TorchTrainer) -> None:
        self._trainer = trainer
        self.result: dict[str, Any] | None = None
        self._error: Exception | None = None
        self.thread = threading.Thread(target=self._run, name="ray-train", daemon=True)

    def check(self) -> None:
        if self._error is not None:
            words = " ".join(str(self._error).split())[:500]
            raise Failure(f"Ray Train gave up: {words}") from self._error

    def _run(self) -> None:
        try:
            self.result = self._trainer.fit().return_value
        except Exception as error:
            self._error = error


@contextmanager
def connected(address: str | None, *, dashboard: bool = False) -> Iterator[None]:
    """To the cluster given, that of RAY_ADDRESS, or one of this machine that ends with the run. `dashboard`: for
    what asks there whether an actor lives, as Ray Train does that looks after what lost drivers leave behind."""
    if ray.is_initialized():
        yield
        return
    address = address or os.environ.get("RAY_ADDRESS")
    if address and address != "local":
        settle_token(address)
    try:
        if address:
            ray.init(address=address, log_to_driver=False, logging_level="ERROR")
        else:
            os.environ.setdefault("RAY_worker_niceness", "0")  # Ray's 15 lets whatever else runs here go first
            ray.init(address="local", log_to_driver=False, logging_level="ERROR", include_dashboard=dashboard)
    except (AuthenticationError, ConnectionError, RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise Failure(
            f"no Ray cluster at {address or 'this machine'} ({reason}): start one, or leave --address out"
        ) from None
    free_what_the_dead_hold()
    try:
        with redirect_stdout(sys.stderr):  # Ray has threads that print
            yield
    finally:
        ray.shutdown()


def place_for_ray(folder: Folder) -> dict[str, Any]:
    """Where Ray Train keeps its own notes: reached as the checkpoints are, for it would know other protocols."""
    folder = folder.below("ray")
    if folder.local is not None:
        return {"storage_path": str(folder.local.absolute())}
    from pyarrow.fs import FSSpecHandler, PyFileSystem

    return {"storage_path": folder.root, "storage_filesystem": PyFileSystem(FSSpecHandler(folder.fs))}


def _where(context: Any) -> str:
    return (
        f" (worker {context.get_world_rank()} of {context.get_world_size()}, on {ray.util.get_node_ip_address()})"
    )
