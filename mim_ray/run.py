"""A run: a method, its data, and how it is optimised. One frozen spec, printed, sent and stored as text."""

from typing import Literal

from pydantic import Field, PositiveInt, model_validator

from mim_ray.config import Spec
from mim_ray.siamese import Method
from mim_ray.transforms.crop import Crop, RandomCrop


class Data(Spec):
    train: str | None = Field(None, description="a beton (path or URL) or a sample: set")
    crop: Crop = RandomCrop()
    samples_per_epoch: PositiveInt | None = Field(None, description="a virtual epoch; none: the set's size")
    backend: Literal["auto", "ffcv", "torch"] = "auto"
    threads: PositiveInt | None = Field(None, description="decoding threads of a worker; none: its cores but one")
    ahead: PositiveInt = Field(3, description="batches made in advance")
    stage: Literal["auto", "always", "never"] = Field("auto", description="copy to the node's own disk")


class Optim(Spec):
    algorithm: Literal["adamw", "lars", "lamb", "sgd"] = "adamw"
    blr: float = Field(1.5e-4, gt=0, description="learning rate for a batch of `per`")
    per: PositiveInt = Field(256, description="the batch that blr is meant for")
    betas: tuple[float, float] = Field((0.9, 0.95), description="of adamw and lamb")
    momentum: float = Field(0.9, ge=0, lt=1, description="of lars and sgd")
    weight_decay: float = Field(0.05, ge=0, description="on matrices only")
    clip: float | None = Field(None, description="largest norm of the gradient; none: unlimited")


class Schedule(Spec):
    warmup_epochs: float = Field(20, ge=0, description="linear from 0; a half cosine to 0 follows")


class Run(Spec):
    name: str = Field("", description="what to call the run; empty: the method and a time")
    seed: int = Field(0, ge=0, lt=1 << 63)
    epochs: PositiveInt = 100
    batch: PositiveInt = Field(1024, description="of all workers together")
    method: Method = Method()
    data: Data = Data()
    optim: Optim = Optim()
    schedule: Schedule = Schedule()

    @model_validator(mode="after")
    def _pictures_fit(self) -> "Run":
        self.method.fits(self.data.crop.size)
        return self
