"""M: the kinds of measurements a method may name."""

from typing import Annotated

from pydantic import Field

from mim_ray.measures.classify import Classify, Probe
from mim_ray.measures.contrast import Contrast
from mim_ray.measures.reconstruct import Reconstruct
from mim_ray.measures.relax import Relax

Measure = Annotated[Reconstruct | Relax | Contrast | Classify | Probe, Field(discriminator="kind")]
