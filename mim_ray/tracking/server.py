"""The door to MLflow: how it is reached, and its troubles in words. MLflow is imported when first needed."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from typing import TYPE_CHECKING

from mim_ray.errors import Failure, Mistake, without_secrets

if TYPE_CHECKING:
    from mlflow import MlflowClient

TIMEOUT, SECONDS_FOR_A_FILE = "MLFLOW_HTTP_REQUEST_TIMEOUT", "600"
QUIET_AND_SOON = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    TIMEOUT: "10",
}
PASSING = {HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.CONFLICT, HTTPStatus.TOO_MANY_REQUESTS}
"""What a server says that would do what was asked at another time."""
LONGEST_REASON = 200
IMPORTING = threading.Lock()
"""Of MLflow: two threads that import parts of it at once find it half made."""


def connected(uri: str) -> "MlflowClient":
    """A client, silent and without patience of its own; a server is only asked when the client is used."""
    for name, value in QUIET_AND_SOON.items():
        os.environ.setdefault(name, value)
    try:
        with IMPORTING:
            from mlflow import MlflowClient
    except ImportError:
        raise Failure("MLflow is not installed: make setup, or pip install 'mim_ray[mlflow]'") from None
    return MlflowClient(uri)


@contextmanager
def time_for_a_file() -> Iterator[None]:
    """A server answers to a file only when the store behind it has taken the file."""
    usual = os.environ[TIMEOUT]
    os.environ[TIMEOUT] = max(usual, SECONDS_FOR_A_FILE, key=float)
    try:
        yield
    finally:
        os.environ[TIMEOUT] = usual


class Away(Failure):
    """Not reached, or in trouble of its own: at another time it may answer."""


@contextmanager
def needed(uri: str) -> Iterator[None]:
    """Whatever MLflow cannot do in this block is a Failure, for nothing can go on without it."""
    try:
        yield
    except (Failure, Mistake):
        raise
    except Exception as error:
        place = without_secrets(uri)
        if status_of(error) is not None:
            raise Failure(f"MLflow at {place} refuses: {reason(error)}") from None
        raise Away(
            f"MLflow at {place} cannot be reached ({reason(error)}): "
            "start `mlflow server` there, or name another one by MLFLOW_TRACKING_URI, tracking.uri= or --uri"
        ) from None


def status_of(error: Exception) -> int | None:
    """The HTTP status of a refusal; None for what passes by itself: no contact, or a server in trouble."""
    response = getattr(error, "response", None)
    if response is not None and hasattr(response, "status_code"):  # of requests, which carries artifacts
        status = int(response.status_code)
    elif hasattr(error, "get_http_status_code"):  # of MLflow
        status = int(error.get_http_status_code())
    else:
        return None
    return status if 400 <= status < 500 and status not in PASSING else None


def reason(error: BaseException) -> str:
    """What the system said underneath, where an address could not be reached; else what MLflow says."""
    root = error
    while below := root.__cause__ or (None if root.__suppress_context__ else root.__context__):
        root = below
    said = root if isinstance(root, OSError) else error
    words = said.strerror if isinstance(said, OSError) and said.strerror else str(said) or type(said).__name__
    return without_secrets(" ".join(words.split()))[:LONGEST_REASON]
