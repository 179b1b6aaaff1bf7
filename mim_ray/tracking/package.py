"""An encoder's folder as a model that MLflow itself can load and serve, without a pickle in it."""

import base64
import io
import platform
import warnings
from importlib.metadata import version
from pathlib import Path

import numpy as np
from PIL import Image

from mim_ray.tracking.server import IMPORTING

LOADER = "mim_ray.serving"


def package(folder: Path, width: int, side: int) -> None:
    """Adds the files that MLflow reads: what goes in and comes out, by what it is loaded, an example."""
    with IMPORTING, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of MLflow about itself
        from mlflow.models import Model, ModelSignature
        from mlflow.types import ColSpec, Schema, TensorSpec

    (folder / "requirements.txt").write_text(f"mim_ray[mlflow]=={version('mim_ray')}\n")
    python = platform.python_version()
    (folder / "python_env.yaml").write_text(f"python: {python}\ndependencies:\n- -r requirements.txt\n")
    inputs = Schema([ColSpec("string", "image")])
    outputs = Schema([TensorSpec(np.dtype(np.float32), (-1, width))])
    model = Model(signature=ModelSignature(inputs=inputs, outputs=outputs))
    environment = {"virtualenv": "python_env.yaml"}
    model.add_flavor("python_function", loader_module=LOADER, data=".", python_version=python, env=environment)
    (folder / "input_example.json").write_text(example(side))
    known = {"artifact_path": "input_example.json", "type": "dataframe", "pandas_orient": "split"}
    model.saved_input_example_info = known
    model.save(str(folder / "MLmodel"))


def example(side: int) -> str:
    picture = io.BytesIO()
    Image.linear_gradient("L").resize((side, side)).convert("RGB").save(picture, "PNG")
    text = base64.b64encode(picture.getvalue()).decode()
    return f'{{"columns": ["image"], "data": [["{text}"]]}}\n'
