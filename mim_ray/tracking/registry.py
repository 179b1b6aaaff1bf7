"""Registered models: which run's encoder has which name and version."""

import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from mim_ray.errors import Failure, Mistake, nearest, without_secrets
from mim_ray.tracking.run import find_run
from mim_ray.tracking.server import connected, needed

CHAMPION, PREVIOUS = "champion", "previous"
"""Aliases: the version in use, and the one before it."""

PROMOTING, PROMOTING_SECONDS = ".promoting", 60.0
"""What a name is while one of its aliases is moved, and how long that may take."""

TAKEN = ("RESOURCE_ALREADY_EXISTS", "RESOURCE_DOES_NOT_EXIST")
"""What a server says of a name that is there, and of one that has gone while it looked."""

ENCODER, METHOD = "encoder", "model"
"""Folders of a run's artifacts: the encoder to be used, and all of the method."""

BEST = ("best/a", "best/b")
"""Both of these as they were when the run was judged best, in turn: one is whole while the other is sent."""


def register(uri: str, name: str, run_id: str) -> str:
    """The run's version, as `name/version`; a new one if it has none."""
    with needed(uri):
        client = connected(uri)
        from mlflow.exceptions import MlflowException

        with suppress(MlflowException):  # it may be there; if it cannot be made the next line says so
            client.create_registered_model(name)
        for known in client.search_model_versions(f"run_id = '{run_id}'"):
            if known.name == name:
                return f"{name}/{known.version}"
        version = client.create_model_version(name, source=f"runs:/{run_id}/{ENCODER}", run_id=run_id)
        return f"{name}/{version.version}"


class Version(NamedTuple):
    name: str
    version: str
    run_id: str | None
    aliases: list[str]
    tags: dict[str, str]


def versions(uri: str, name: str | None = None) -> list[Version]:
    """Of one registered model or of all, newest first."""
    with needed(uri):
        client = connected(uri)
        homes = {home.name: home for home in _every(client.search_registered_models)}
        aliases: dict[tuple[str, str], list[str]] = {}
        for home in homes.values():
            for alias, version in home.aliases.items():
                aliases.setdefault((home.name, str(version)), []).append(alias)
        found = _every(client.search_model_versions)
    if name is not None and name not in homes:
        raise Mistake(f"no registered model {name!r} at {without_secrets(uri)}{nearest(name, homes)}")
    rows = [
        Version(one.name, str(one.version), one.run_id, aliases.get((one.name, str(one.version)), []), one.tags)
        for one in found
        if name in (None, one.name) and not one.name.endswith(PROMOTING)
    ]
    return sorted(rows, key=lambda row: (row.name, -int(row.version)))


def _every(search: Callable[..., Any]) -> list[Any]:
    """MLflow gives them by pages."""
    page = search()
    found = list(page)
    while page.token:
        page = search(page_token=page.token)
        found += page
    return found


def version_of(uri: str, where: str) -> Version:
    """`name/version` or `name@alias`."""
    name, by_alias, alias = where.partition("@")
    name, _, number = (name, "", "") if by_alias else where.partition("/")
    for one in versions(uri, name):
        if (alias in one.aliases) if by_alias else (one.version == number):
            return one
    found = versions(uri, name)
    known = [f"{one.name}/{one.version}" for one in found]
    known += [f"{one.name}@{alias}" for one in found for alias in one.aliases]
    raise Mistake(f"no version {where!r}: expected one of {', '.join(known)}")


def set_champion(
    uri: str, new: Version, alias: str = CHAMPION, earned: Callable[[Version], None] = lambda _: None
) -> Version | None:
    """Moves the alias; what had it before has `previous`. One at a time: whoever comes second finds the first's.

    `earned`: raises where the new one is not to take the place of that which has the alias now.
    """
    with needed(uri), _promoting(uri, new.name):
        client = connected(uri)
        before = next((one for one in versions(uri, new.name) if alias in one.aliases), None)
        if before is None or before.version != new.version:
            if before is not None:
                earned(before)
                client.set_registered_model_alias(new.name, PREVIOUS, before.version)
            client.set_registered_model_alias(new.name, alias, new.version)
    return before


@contextmanager
def _promoting(uri: str, name: str) -> Iterator[None]:
    """By one at a time, on any machine: a name in the registry can be made once. One that was left behind by
    someone who was killed is taken away."""
    client, mark = connected(uri), f"{name}{PROMOTING}"
    from mlflow.exceptions import MlflowException

    deadline = time.monotonic() + 2 * PROMOTING_SECONDS
    while True:
        try:
            client.create_registered_model(mark, description="someone moves an alias")
            break
        except MlflowException as error:
            if error.error_code not in TAKEN or time.monotonic() > deadline:
                raise
        with suppress(MlflowException):  # it may be gone by now
            made = client.get_registered_model(mark).creation_timestamp
            if time.time() - made / 1000 > PROMOTING_SECONDS:
                client.delete_registered_model(mark)
        time.sleep(0.2)
    try:
        yield
    finally:
        with suppress(MlflowException):
            client.delete_registered_model(mark)


def has_artifact(uri: str, run_id: str, path: str) -> bool:
    """A file or a folder."""
    with needed(uri):
        above = path.rpartition("/")[0] or None
        return any(item.path == path for item in connected(uri).list_artifacts(run_id, above))


def fetch(uri: str, run_id: str, artifact: str, to: Path) -> Path:
    """A file or folder of a run's artifacts, copied here."""
    to.mkdir(parents=True, exist_ok=True)
    with needed(uri):
        connected(uri)  # sets what MLflow reads when it is imported
        from mlflow.artifacts import download_artifacts

        return Path(download_artifacts(run_id=run_id, artifact_path=artifact, dst_path=str(to), tracking_uri=uri))


def run_of(uri: str, where: str) -> str:
    """Of a run's name or id, of `name@alias`, of `name/version`, or of an alias that one model alone has."""
    named = re.fullmatch(r"([^@/]+)(?:@([\w.-]+)|/(\d+))", where)
    if named:
        found = version_of(uri, where)
        if found.run_id is None:
            raise Failure(f"{where} is of no run: it was not registered by mim-ray")
        return found.run_id
    known = find_run(uri, where)
    if known is None and len(having := [one for one in versions(uri) if where in one.aliases and one.run_id]) == 1:
        return str(having[0].run_id)
    if known is None:
        raise Mistake(
            f"no model {where!r} at {without_secrets(uri)}: expected a run's name or id, name@alias, name/version "
            "or a folder"
        )
    return known["run_id"]
