"""Registered models: which run's encoder has which name and version."""

import re
from contextlib import suppress
from pathlib import Path

from mim_ray.errors import Failure, Mistake, without_secrets
from mim_ray.tracking.run import find_run, resolved_uri
from mim_ray.tracking.server import connected, needed

FOLDER = "encoder"
"""Of a run's artifacts."""


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
        version = client.create_model_version(name, source=f"runs:/{run_id}/{FOLDER}", run_id=run_id)
        return f"{name}/{version.version}"


def fetched(where: str, to: Path, uri: str | None = None) -> Path:
    """The encoder's folder of a run (name or id), of `name@alias` or of `name/version`, copied here."""
    uri = resolved_uri(uri)
    run_id = _run_of(uri, where)
    if not has_artifact(uri, run_id, FOLDER):
        raise Mistake(f"{where}: run {run_id} has no encoder yet: it is logged when the run ends")
    return fetch(uri, run_id, FOLDER, to)


def has_artifact(uri: str, run_id: str, path: str) -> bool:
    """A file or a folder."""
    with needed(uri):
        above = path.rpartition("/")[0] or None
        return any(item.path == path for item in connected(uri).list_artifacts(run_id, above))


def fetch(uri: str, run_id: str, artifact: str, to: Path) -> Path:
    """A file or folder of a run's artifacts, copied here."""
    with needed(uri):
        connected(uri)  # sets what MLflow reads when it is imported
        from mlflow.artifacts import download_artifacts

        return Path(download_artifacts(run_id=run_id, artifact_path=artifact, dst_path=str(to), tracking_uri=uri))


def _run_of(uri: str, where: str) -> str:
    named = re.fullmatch(r"([^@/]+)(?:@([\w.-]+)|/(\d+))", where)
    if named:
        name, alias, version = named.groups()
        with needed(uri):
            client = connected(uri)
            found = (
                client.get_model_version_by_alias(name, alias)
                if alias
                else client.get_model_version(name, version)
            )
            if found.run_id is None:
                raise Failure(f"{where} is of no run: it was not registered by mim-ray")
            return str(found.run_id)
    known = find_run(uri, where)
    if known is None:
        raise Mistake(
            f"no model {where!r} at {without_secrets(uri)}: expected a run's name or id, name@alias, name/version "
            "or a folder"
        )
    return known["run_id"]
