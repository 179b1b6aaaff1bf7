"""A command of ours as a job of a Ray cluster, and its result as ours.

The job's driver runs on the head node: a laptop that goes to sleep ends no training.
"""

import asyncio
import logging
import os
import shlex
import sys
import time
import urllib.error
import urllib.request
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TextIO
from urllib.parse import urlsplit

from mim_ray.errors import Failure, Mistake, without_secrets
from mim_ray.ray_token import WANTED, refused, take_up_token
from mim_ray.revision import SAID, revision_of

if TYPE_CHECKING:
    from ray.dashboard.modules.job.pydantic_models import JobDetails
    from ray.job_submission import JobSubmissionClient

TUNNEL = "http://127.0.0.1:8265"  # where `ray dashboard` and `kubectl port-forward` put a head's dashboard
FORWARDED = "MLFLOW_TRACKING_URI"
STOPPING = {"RAY_JOB_STOP_WAIT_TIME_S": "60"}  # by itself Ray gives a job 3 seconds, too few for a checkpoint
SECONDS_TO_ANSWER = 10


class Submission(NamedTuple):
    job: str
    address: str
    status: str
    message: str


def submit(
    words: Sequence[str],
    address: str | None = None,
    working_dir: Path | None = None,
    wait: bool = True,
    log: TextIO = sys.stdout,
) -> Submission:
    """Sends `mim-ray WORDS`; with `wait`, its output goes to `log` while it runs."""
    variables = _forwarded(os.environ) | STOPPING | _commit(working_dir)
    runtime_env = {"env_vars": variables, **_code(working_dir)}
    client = _client(_dashboard(address, os.environ))
    url = client.get_address()
    # `python -m` and not `mim-ray`, so that a working directory that holds the package is the one that runs.
    entrypoint = shlex.join(["python", "-m", "mim_ray", *words])
    try:
        job = client.submit_job(entrypoint=entrypoint, runtime_env=runtime_env)
    except (RuntimeError, ValueError) as error:
        raise Failure(f"{url} did not take the job: {error}") from error
    print(f"job {job} at {url}", file=sys.stderr)
    if not wait:
        print(f"follow it with: ray job logs --follow {job}", file=sys.stderr)
        return Submission(job, url, "SENT", "")
    try:
        return _follow(client, url, job, log)
    except KeyboardInterrupt:
        print(f"the job goes on; to end it: ray job stop {job}", file=sys.stderr)
        raise
    except (OSError, RuntimeError) as error:
        way_out = f"it goes on; follow it with: ray job logs --follow {job}"
        raise Failure(f"lost sight of job {job} at {url} ({error}); {way_out}") from error


def _follow(client: "JobSubmissionClient", url: str, job: str, log: TextIO) -> Submission:
    asyncio.run(_copy_log(client, job, log))
    while not (details := client.get_job_info(job)).status.is_terminal():
        time.sleep(0.5)  # the log ends a moment before the job does
    return Submission(job, url, details.status.value, _reason(details))


async def _copy_log(client: "JobSubmissionClient", job: str, log: TextIO) -> None:
    async for piece in client.tail_job_logs(job):
        print(piece, end="", file=log, flush=True)


def _reason(details: "JobDetails") -> str:
    """A job that ran has told the rest in its log; Ray's message repeats it."""
    if details.driver_exit_code is not None:
        return f"exit code {details.driver_exit_code}"
    return details.message or ""


def _client(url: str) -> "JobSubmissionClient":
    take_up_token()
    _ask(url)
    os.environ["RAY_API_SERVER_ADDRESS"] = url  # Ray prefers this, and even RAY_ADDRESS, to the argument
    from ray.exceptions import AuthenticationError
    from ray.job_submission import JobSubmissionClient

    logging.getLogger("ray.dashboard.modules.job.sdk").setLevel(logging.WARNING)
    try:
        return JobSubmissionClient(url)
    except AuthenticationError as error:
        raise Failure(f"{url} {_refusal(str(error))}") from error
    except (OSError, RuntimeError, ValueError, KeyError) as error:
        raise Failure(f"{url} does not answer as a Ray dashboard does: {error}") from error


def _refusal(said: str) -> str:
    return refused() if "invalid" in said.lower() else WANTED


def _ask(url: str) -> None:
    """Ray's client would wait as long as the network does; any answer will do, also a refusal."""
    try:
        urllib.request.urlopen(f"{url}/api/version", timeout=SECONDS_TO_ANSWER).close()
    except urllib.error.HTTPError as answer:
        answer.close()
    except OSError as error:
        reason = getattr(error, "reason", error)
        raise Failure(
            f"no Ray dashboard answers at {url} ({reason}): is the cluster up, the tunnel open?"
        ) from error


def _dashboard(address: str | None, environment: Mapping[str, str]) -> str:
    """The dashboard's URL: as given, as Ray's own variables say, or the end of a tunnel."""
    said = environment.get("RAY_API_SERVER_ADDRESS") or environment.get("RAY_ADDRESS", "")
    url = address or (said if said.startswith("http") else TUNNEL)
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise Mistake(f"address {url!r}: the URL of the head's dashboard is expected, such as {TUNNEL}")
    return url.rstrip("/")


def _forwarded(environment: Mapping[str, str]) -> dict[str, str]:
    """Where the cluster's runs are kept. The dashboard shows what travels with a job, so no secret may."""
    uri = environment.get(FORWARDED)
    if not uri:
        return {}
    if without_secrets(uri) != uri:
        raise Mistake(
            f"{FORWARDED} holds a password, and the dashboard would show it: leave it out here, "
            "and give the cluster's nodes MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
        )
    if not uri.startswith("http"):
        warnings.warn(f"{FORWARDED}={uri} is a place on the head node, not on this machine", stacklevel=2)
    return {FORWARDED: uri}


def _commit(working_dir: Path | None) -> dict[str, str]:
    """Of the package where it is sent along; what is installed there knows its own."""
    package = working_dir and working_dir / "mim_ray" / "__init__.py"
    return {SAID: revision_of(package) or ""} if package and package.exists() else {}


def _code(working_dir: Path | None) -> dict[str, str]:
    if working_dir is None:
        return {}
    if not working_dir.is_dir():
        raise Mistake(f"working directory {working_dir}: no such folder")
    return {"working_dir": str(working_dir.resolve())}
