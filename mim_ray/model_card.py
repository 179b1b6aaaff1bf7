"""A model's card as a person reads it."""

import shlex
from collections.abc import Mapping
from typing import Protocol

from mim_ray.run import Run


class Told(Protocol):
    """What is told of a model."""

    @property
    def method(self) -> str: ...
    @property
    def overrides(self) -> Mapping[str, str]: ...
    @property
    def steps(self) -> int: ...
    @property
    def dataset(self) -> str: ...
    @property
    def dataset_checksum(self) -> str | None: ...
    @property
    def run_id(self) -> str | None: ...
    @property
    def metrics(self) -> Mapping[str, float]: ...
    @property
    def mim_ray(self) -> str: ...
    @property
    def commit(self) -> str | None: ...


def described(card: Told, run: Run) -> str:
    height, width = run.data.crop.size
    words = (f"{path}={value}" for path, value in card.overrides.items())
    measured = "\n".join(f"| {name} | {value:.4g} |" for name, value in sorted(card.metrics.items()))
    return f"""# {run.name or card.method}

An encoder, trained by `{card.method}` for {card.steps:,} steps.

| | |
|---|---|
| data | `{card.dataset}`, checksum {card.dataset_checksum or "not known"}; its licence is not known here |
| code | mim_ray {card.mim_ray}, commit {card.commit or "not known"} |
| run | {card.run_id or "not tracked"} |
| the same again | `{shlex.join(["mim-ray", "train", card.method, *words])}` |
| pictures | {height} × {width} pixels, the middle {run.eval.share:g} of the shorter side |
| mean, deviation | {", ".join(map(str, run.method.mean))}; {", ".join(map(str, run.method.std))} |
{measured}

```python
import mim_ray

encoder = mim_ray.load("{card.run_id or "FOLDER"}")
features = encoder(encoder.transform(picture)[None])
```
"""
