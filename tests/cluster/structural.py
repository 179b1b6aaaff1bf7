"""What a Kubernetes API server finds wrong with an object, told by its CRD."""

import gzip
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

ROOT = Path(__file__).parent.parent.parent
FOLDER = Path(os.environ.get("MIM_RAY_SCHEMAS") or ROOT.parent / "shared" / "schemas")
Schema = dict[str, Any]


def schema_of(crd: str) -> Schema:
    file = FOLDER / f"{crd}.crd.yaml.gz"
    if not file.exists():
        pytest.skip(f"no KubeRay CRDs in {FOLDER}; set MIM_RAY_SCHEMAS to a folder with {file.name}")
    versions = yaml.load(gzip.decompress(file.read_bytes()), yaml.CSafeLoader)["spec"]["versions"]
    (version,) = [version for version in versions if version["name"] == "v1"]
    schema: Schema = version["schema"]["openAPIV3Schema"]
    return schema


def faults(value: Any, schema: Schema) -> list[str]:
    wrong = [
        f"{error.json_path}: {error.message}" for error in jsonschema.Draft4Validator(schema).iter_errors(value)
    ]
    return wrong + [f"{path}: no such field" for path in unknown(value, schema, "$")]


def unknown(value: Any, schema: Schema, path: str) -> Iterator[str]:
    """A validator lets unknown fields pass, and the API server drops them in silence."""
    if schema.get("x-kubernetes-preserve-unknown-fields"):
        return
    if isinstance(value, list):
        for position, item in enumerate(value):
            yield from unknown(item, schema.get("items", {}), f"{path}[{position}]")
    if isinstance(value, dict):
        known, others = schema.get("properties", {}), schema.get("additionalProperties")
        if path == "$.metadata" and not known:
            return  # the CRD leaves it to the API server
        for name, item in value.items():
            inner = known.get(name, others)
            if inner is None or inner is False:
                yield f"{path}.{name}"
            elif inner is not True:
                yield from unknown(item, inner, f"{path}.{name}")
