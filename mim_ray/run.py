"""A run: a method, its data, and how it is optimised. One frozen spec, printed, sent and stored as text."""

import re
from typing import Annotated, Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, field_validator, model_validator

from mim_ray.config import Spec
from mim_ray.data.subset import Subset
from mim_ray.encoders.target import Labels
from mim_ray.encoders.vit import ViT
from mim_ray.measures.contrast import Contrast
from mim_ray.scores import LOOKED_AT, LOSS
from mim_ray.siamese import Method
from mim_ray.transforms.crop import Crop, RandomCrop


class Data(Spec):
    train: str | None = Field(None, description="a beton (path or URL) or a sample: set")
    val: str | None = Field(None, description="pictures to look at while training; none: some of data.train")
    few: Subset = Field(Subset(), description="some of data.train, drawn by the seed")
    crop: Crop = RandomCrop()
    samples_per_epoch: PositiveInt | None = Field(
        None, description="a virtual epoch; none: as many as data.train has, of few for labels those few"
    )
    backend: Literal["auto", "ffcv", "torch"] = "auto"
    threads: PositiveInt | None = Field(None, description="decoding threads of a worker; none: its cores but one")
    ahead: PositiveInt = Field(3, description="batches made in advance")
    stage: Literal["auto", "always", "never"] = Field("auto", description="copy to the node's own disk")


Share = Annotated[float, Field(ge=0, lt=1)]


class Optim(Spec):
    algorithm: Literal["adamw", "lars", "lamb", "sgd"] = "adamw"
    blr: float = Field(1.5e-4, gt=0, description="learning rate for a batch of `per`")
    per: PositiveInt = Field(256, description="the batch that blr is meant for")
    betas: tuple[Share, Share] = Field((0.9, 0.95), description="of adamw and lamb")
    momentum: float = Field(0.9, ge=0, lt=1, description="of lars and sgd")
    weight_decay: float = Field(0.05, ge=0, description="on matrices only")
    tokens_decay: bool = Field(True, description="the class token and the mask token do, too")
    layer_decay: float = Field(
        1.0, gt=0, le=1, description="learning rate of each layer of the encoder, as a share of the next one's"
    )
    weight_decay_final: float | None = Field(None, ge=0, description="approached by a half cosine; none: it stays")
    clip: float | None = Field(None, gt=0, description="largest norm of the gradient; none: unlimited")
    average: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="keep a running average of all weights: it is what is judged and given out",
    )


class Schedule(Spec):
    warmup_epochs: float = Field(20, ge=0, description="linear from 0; a half cosine to 0 follows")


class Checkpoint(Spec):
    every_steps: PositiveInt | None = Field(None, description="none: by time alone")
    every_minutes: PositiveFloat | None = Field(15, description="none: by steps alone")
    keep: PositiveInt = Field(2, description="how many of the newest to keep")
    best: str | None = Field(
        "eval/knn_top1",
        description="when looked at, keep the one that is best by this, too: highest, but for a loss",
    )
    to_mlflow: bool = Field(False, description="also as artifacts, to go on from where the folder is lost")

    @field_validator("best")
    @classmethod
    def _best_is_measured(cls, name: str | None) -> str | None:
        if name is None or name in LOOKED_AT or name.startswith("train/"):
            return name
        raise ValueError(f"expected one of {', '.join(LOOKED_AT)}, or train/… as the run logs it")


class Eval(Spec):
    every_epochs: PositiveFloat | None = Field(10, description="how often, and at both ends; none: never")
    patience: PositiveInt | None = Field(
        None, description="looks without a better checkpoint.best after which the run ends; none: it goes on"
    )
    most: PositiveInt | None = Field(5000, description="most pictures of a set; none: all of them")
    share: float = Field(0.875, gt=0, le=1, description="of a picture's shorter side that is looked at")
    size: tuple[PositiveInt, PositiveInt] | None = Field(
        None, description="pixels that it is looked at in; none: those of data.crop"
    )
    pool: Literal["auto", "class", "mean"] = Field(
        "auto", description="the class token, or the mean of the others; auto: the one that the method compares"
    )
    linear: bool = Field(False, description="ask a linear probe, too, learnt from data.train's pictures")
    neighbours: tuple[PositiveInt, ...] = Field(
        (20,), min_length=1, description="that vote in k-NN, where there are labels; several: each in turn"
    )
    temperature: tuple[PositiveFloat, ...] = Field(
        (0.07,), min_length=1, description="of their votes; several, too"
    )
    pictures: NonNegativeInt = Field(8, description="how many are shown with what is painted from them")


class Tracking(Spec):
    uri: str | None = Field(None, description="MLflow's address; none: MLFLOW_TRACKING_URI, or mlflow.db here")
    experiment: str = "mim_ray"
    model: str | None = Field(None, description="register the encoder under this name at the end")
    every_steps: PositiveInt = Field(20, description="how many steps are read and logged together, as their mean")


class Run(Spec):
    name: str = Field("", description="what to call the run; empty: the method and a time")
    seed: int = Field(0, ge=0, lt=1 << 63)
    epochs: PositiveInt = 100
    steps: NonNegativeInt | None = Field(
        None, description="end here instead of after the epochs; 0: the encoder is looked at as it begins"
    )
    batch: PositiveInt = Field(1024, description="of all workers together")
    workers: str = Field(
        "1", description="how many; 2:8 takes what the cluster has; 0: in this process, without Ray"
    )
    cpus_per_worker: PositiveInt | None = Field(None, description="none: its share of the machine's cores")
    gpus_per_worker: float | None = Field(None, ge=0, description="none: 1 where there are GPUs")
    resources: tuple[str, ...] = Field((), description="others of each worker, as in a100:1,fast_disk:1")
    start: str | None = Field(None, description="a file or URL of weights for the encoder to begin with")
    storage: str = Field("runs", description="folder or URL below which runs keep their checkpoints")
    micro: PositiveInt | None = Field(
        None, description="most pictures of a worker at once; none: what fits in memory"
    )
    precision: Literal["auto", "bf16", "fp32"] = Field("auto", description="auto: bf16 where the hardware has it")
    compile: bool = Field(False, description="by torch.compile")
    method: Method = Method()
    data: Data = Data()
    optim: Optim = Optim()
    schedule: Schedule = Schedule()
    checkpoint: Checkpoint = Checkpoint()
    eval: Eval = Eval()
    tracking: Tracking = Tracking()

    @field_validator("name")
    @classmethod
    def _name_is_a_folders(cls, name: str) -> str:
        if not re.fullmatch(r"[\w.-]*", name) or name.startswith("."):
            raise ValueError("expected letters, digits, - _ and . only: a folder is called so")
        return name

    @field_validator("workers", mode="before")
    @classmethod
    def _workers_are_counted(cls, workers: object) -> str:
        text = str(workers)
        if not re.fullmatch(r"\d+|[1-9]\d*:[1-9]\d*", text):
            raise ValueError("expected a number, such as 4, or the least and the most, such as 2:8")
        least, _, most = text.partition(":")
        if most and int(least) > int(most):
            raise ValueError(f"the least is above the most: expected {most}:{least}")
        return text

    @model_validator(mode="after")
    def _pictures_fit(self) -> "Run":
        self.method.fits(self.data.crop.size)
        if self.looked_at != self.data.crop.size:
            if isinstance(self.method.encoder, ViT):
                height, width = self.data.crop.size
                raise ValueError(
                    f"eval.size: a ViT's positions are those of data.crop.size: expected {height},{width}"
                )
            self.method.fits(self.looked_at)
        return self

    @model_validator(mode="after")
    def _best_can_be_found(self) -> "Run":
        best = self.checkpoint.best
        if best == LOSS and self.data.val is None:
            raise ValueError(f"checkpoint.best={LOSS}: of pictures that are not learnt from: expected data.val=")
        if best == LOSS and isinstance(self.method.target, Labels):
            raise ValueError(f"checkpoint.best={LOSS}: classifiers are judged by eval/top1: expected that")
        if self.eval.linear and (self.data.val is None or isinstance(self.method.target, Labels)):
            wanted = "data.val=" if self.data.val is None else "eval.linear=false where labels are learnt"
            raise ValueError(f"eval.linear=true: a probe needs pictures that it has not learnt: expected {wanted}")
        measure = self.method.measure
        if self.batch == 1 and isinstance(measure, Contrast) and measure.loss == "infonce":
            raise ValueError("batch=1: a contrast needs other pictures: expected at least 2")
        if self.eval.patience is not None and (best is None or self.eval.every_epochs is None):
            missing = "checkpoint.best" if best is None else "eval.every_epochs"
            raise ValueError(f"eval.patience={self.eval.patience}: nothing is found to wait for: set {missing}=")
        return self

    @property
    def looked_at(self) -> tuple[int, int]:
        """Height and width of the pictures in evaluation."""
        return self.eval.size or self.data.crop.size

    @property
    def pool(self) -> Literal["class", "mean"]:
        """How an encoder's tokens become one feature of a picture."""
        if self.eval.pool != "auto":
            return self.eval.pool
        by_class = isinstance(self.method.encoder, ViT) and self.method.measure.uses_pooled
        return "class" if by_class else "mean"

    @property
    def least_workers(self) -> int:
        return int(self.workers.split(":")[0])

    @property
    def most_workers(self) -> int:
        return int(self.workers.split(":")[-1])
