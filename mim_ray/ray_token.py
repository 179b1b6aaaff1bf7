"""The token of a Ray cluster: whether one is at hand, whether it is wanted, and the words where it is refused."""

import os
import sys
from contextlib import suppress
from pathlib import Path

from mim_ray.errors import Failure, Mistake

MODE, TOKEN, FILE = "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"
WHERE = f"set {TOKEN}, or {FILE} to a file that holds it"
WANTED = f"wants a token: {WHERE}"
SECONDS_TO_ANSWER = 10


def place_of_token() -> str | None:
    """Where Ray would find one; it ends the process where the file that is named is missing."""
    if os.environ.get(TOKEN):
        return TOKEN
    if path := os.environ.get(FILE):
        if not _holds_a_word(Path(path)):
            raise Mistake(f"{FILE}={path}: no file with a token")
        return path
    if _holds_a_word(file := Path("~/.ray/auth_token").expanduser()):
        return str(file)
    if _mode() == "token":
        raise Mistake(f"{MODE}=token: no token is here: {WHERE}")
    return None


def take_up_token() -> None:
    """Ray looks at one only where RAY_AUTH_MODE says so, which it reads when it is imported."""
    if place_of_token() is None or _mode():
        return
    os.environ[MODE] = "token"
    if "ray" in sys.modules:
        from ray._raylet import Config  # type: ignore[attr-defined]

        Config.initialize("")


def settle_token(address: str) -> None:
    """For a driver. A cluster with tokens never answers one that has taken none up, and the actors of a cluster
    without them end when they cannot reach one that has: so the cluster is asked."""
    if _mode() == "token":  # Ray will look for one
        place_of_token()
    if ":" not in address or "://" in address or not _refuses(address):
        return
    place = place_of_token()
    if place is None:
        raise Failure(f"{address} {WANTED}")
    if _mode() not in ("", "token"):
        raise Failure(f"{address} wants a token, and {MODE}={_mode()} keeps it back: unset {MODE}")
    take_up_token()
    if _refuses(address):
        raise Failure(f"{address} {refused()}")


def refused() -> str:
    return f"refused the token of {place_of_token()}, which is not that of this cluster: {WHERE}"


def _refuses(address: str) -> bool:
    """Of a cluster that does not answer nothing is known: Ray waits for it, and says so."""
    from grpc import RpcError, StatusCode
    from ray._private.grpc_utils import init_grpc_channel
    from ray.core.generated.gcs_service_pb2 import CheckAliveRequest
    from ray.core.generated.gcs_service_pb2_grpc import NodeInfoGcsServiceStub

    try:
        with init_grpc_channel(address, [("grpc.enable_http_proxy", 0)]) as channel:
            NodeInfoGcsServiceStub(channel).CheckAlive(CheckAliveRequest(), timeout=SECONDS_TO_ANSWER)
    except RpcError as error:
        return bool(error.code() == StatusCode.UNAUTHENTICATED)
    return False


def _mode() -> str:
    return os.environ.get(MODE, "").lower()


def _holds_a_word(file: Path) -> bool:
    with suppress(OSError):
        return file.is_file() and bool(file.read_text().strip())
    return False
