"""f: the kinds of encoders a method may name."""

from typing import Annotated

from pydantic import Field

from mim_ray.encoders.cnn import CNN, Backbone
from mim_ray.encoders.vit import VisionTransformer, ViT

Encoder = Annotated[ViT | CNN, Field(discriminator="kind")]
EncoderModule = VisionTransformer | Backbone
