"""What a model is told to be, for programs and for people."""

import shlex

from pydantic import ConfigDict, Field

from mim_ray.config import Spec
from mim_ray.methods import resolved
from mim_ray.run import Run


class ModelCard(Spec):
    """What an encoder is and where it comes from."""

    model_config = ConfigDict(allow_inf_nan=True)  # of what was measured

    method: str
    overrides: dict[str, str]
    steps: int
    dataset: str
    run_id: str | None = None
    metrics: dict[str, float]
    mim_ray: str
    dataset_checksum: str | None = None
    licence: str | None = Field(None, description="of the data, in words")
    commit: str | None = None
    weights_sha256: str | None = Field(None, description="of the file beside it")

    @property
    def run(self) -> Run:
        return resolved(self.method, self.overrides)


def described(card: ModelCard) -> str:
    """For a person."""
    run = card.run
    height, width = run.data.crop.size
    words = (f"{path}={value}" for path, value in card.overrides.items())
    licence = "not known here" if card.licence is None else " ".join(card.licence.replace("|", "/").split())
    measured = "\n".join(f"| {name} | {value:.4g} |" for name, value in sorted(card.metrics.items()))
    return f"""# {run.name or card.method}

An encoder, trained by `{card.method}` for {card.steps:,} steps.

| | |
|---|---|
| data | `{card.dataset}`, checksum {card.dataset_checksum or "not known"}; its licence: {licence} |
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
