"""Any timm backbone that can be cut into a stem and stages; a token replaces or joins hidden features."""

from collections.abc import Sequence
from functools import cache
from itertools import chain
from typing import Any, Literal

import torch
from pydantic import Field, PositiveInt, field_validator, model_validator
from torch import Tensor, nn

from mim_ray.config import Spec
from mim_ray.errors import Mistake, nearest
from mim_ray.views import Grid, Tokens, View
from mim_ray.world import with_global_norms

OURS: dict[str, tuple[str, dict[str, Any]]] = {
    "resnet-micro": ("resnet18", {"layers": (1, 1, 1, 1), "channels": (32, 64, 128, 256)}),
}
"""Names that are short for a timm name with settings."""

STAGES = (("layer1", "layer2", "layer3", "layer4"), ("s1", "s2", "s3", "s4"), ("stages",), ("blocks",))
HEADS = {"global_pool", "head", "fc", "classifier"}
PROBE = 64
"""Side of the picture on which a backbone shows that it is the sequence of its parts."""


class CNN(Spec):
    kind: Literal["cnn"] = "cnn"
    name: str = Field(
        "resnet50", description="a timm name, or resnet-micro (with stem=small for 32-pixel pictures)"
    )
    stem: Literal["standard", "small"] = Field("standard", description="small: a ResNet's without its strides")
    channels: PositiveInt = 3
    patch: PositiveInt = Field(32, description="side in pixels of what is hidden or shown as one")
    hidden: Literal["drop", "replace", "add"] = Field(
        "add", description="a learned token replaces the hidden features or is added to them"
    )
    at: int | None = Field(
        None, ge=0, description="after which stage the token enters, 0 the stem; none: 0 to replace, 3 to add"
    )
    depth: PositiveInt | None = Field(None, description="the first stages alone; none: all")
    drop_path: float = Field(0.0, ge=0, lt=1, description="timm's drop_path_rate")

    @field_validator("name")
    @classmethod
    def _name_is_known(cls, name: str) -> str:
        import timm  # here and below, for it takes seconds to import

        if name not in OURS and not timm.is_model(name):
            raise ValueError(f"no such backbone{nearest(name, [*OURS, *timm.list_models()])}")
        return name

    @field_validator("hidden")
    @classmethod
    def _nothing_is_dropped(cls, hidden: str) -> str:
        if hidden == "drop":
            raise ValueError("a convolution needs every patch: expected replace or add")
        return hidden

    @model_validator(mode="after")
    def _small_stems_are_of_resnets(self) -> "CNN":
        if self.stem == "small" and not self.name.startswith("resnet"):
            raise ValueError(f"stem=small: only a ResNet's stem can be made small, not {self.name}'s")
        return self

    @property
    def entry(self) -> int:
        if self.at is not None:
            return self.at
        if self.hidden == "replace":
            return 0
        return 3 if self.depth is None else min(3, self.depth)

    def grid(self, image: tuple[int, int]) -> Grid:
        if any(side % self.patch for side in image):
            raise Mistake(f"patch={self.patch}: pictures of {image[0]} × {image[1]} are not whole patches")
        return Grid(image[0] // self.patch, image[1] // self.patch, self.patch)

    def fits(self, image: tuple[int, int], hides: bool) -> tuple[tuple[int, int], ...]:
        """(features, stride) after the stem and every stage; refuses pictures that these cannot divide."""
        self.grid(image)
        features = self._features()
        _, stride = features[-1]
        if any(side % stride for side in image):
            raise Mistake(f"name={self.name}: {image[0]} × {image[1]} pixels: expected multiples of {stride}")
        if self.patch % stride and stride % self.patch:
            raise Mistake(f"patch={self.patch}: expected a multiple or a divisor of the stride, {stride}")
        if hides and self.entry >= len(features):
            model = self.name if self.depth is None else f"{self.name} with depth={self.depth}"
            raise Mistake(f"at={self.entry}: {model} has {len(features) - 1} stages: expected one of them")
        if hides and self.patch % features[self.entry][1]:
            raise Mistake(
                f"at={self.entry}: a cell after that stage is {features[self.entry][1]} pixels wide, "
                f"which a hidden patch of {self.patch} does not fill: expected an earlier stage"
            )
        return features

    def _features(self) -> tuple[tuple[int, int], ...]:
        """Of the stem and the stages up to `depth`."""
        every = features_of(self.name, self.stem, self.channels)
        stages = len(every) - 1
        if self.depth is not None and self.depth > stages:
            raise Mistake(f"depth={self.depth}: {self.name} has {stages} stages: expected 1 to {stages}")
        return every if self.depth is None else every[: self.depth + 1]

    @property
    def entries(self) -> tuple[int, ...]:
        """After which stages, 0 the stem, a token can enter: others follow, and a hidden patch is whole cells."""
        strides = [stride for _, stride in self._features()[:-1]]
        return tuple(stage for stage, stride in enumerate(strides) if self.patch % stride == 0)

    def token_is_last(self, image: tuple[int, int]) -> bool:
        """Whether nothing of the encoder comes after it."""
        return self.entry == len(self.fits(image, hides=False)) - 1

    def build(self, image: tuple[int, int], *, hides: bool, pooled: bool) -> "Backbone":
        return Backbone(self, image, hides, pooled)


class Backbone(nn.Module):
    """A timm model, run part by part; its weights keep timm's names under `net.`."""

    net: Any

    def __init__(self, spec: CNN, image: tuple[int, int], hides: bool, pooled: bool) -> None:
        super().__init__()
        features = spec.fits(image, hides)
        self.net = with_global_norms(model_of(spec.name, spec.stem, spec.channels, spec.drop_path))
        self._parts = parts_of(self.net, spec.name)
        self._check_parts(spec)
        self.later = self._shortened(len(features))
        """How the names of what a whole model has beyond `depth` begin."""
        self.width, stride = features[-1]
        self.cells = Grid(image[0] // stride, image[1] // stride, stride)
        self.grid, self.hidden, self.entry = spec.grid(image), spec.hidden, spec.entry
        if self.later or not pooled:
            used = {id(weight) for part in chain(*self._parts) for weight in part.parameters()}
            for weight in self.net.parameters():
                weight.requires_grad_(id(weight) in used)
        if hides:
            width, stride = features[spec.entry]
            self.scale = spec.patch // stride
            self.mask_token = nn.Parameter(torch.zeros(1, width, 1, 1))
            nn.init.normal_(self.mask_token, std=0.02)

    def forward(self, view: View) -> Tokens:
        x = view.pixels
        for number, part in enumerate(self._parts):
            for module in part:
                x = module(x)
            if view.hiding is not None and number == self.entry:
                x = self._marked(x, view.hiding.mask)
        pooled = x.mean((2, 3)) if self.later else self.net.forward_head(x, pre_logits=True)
        return Tokens(x.flatten(2).mT, pooled, None)

    def encode(self, views: Sequence[View]) -> list[Tokens]:
        """One after the other, so that each view has its own batch statistics."""
        return [self(view) for view in views]

    @property
    def layers(self) -> int:
        """How many there are to count learning rates by: the stem, each stage, what comes after them."""
        return len(self._parts) + 1

    def layer_of(self, name: str) -> int:
        """Of a weight, by its name."""
        weight = self.get_parameter(name)
        for number, part in enumerate(self._parts):
            if any(weight is own for module in part for own in module.parameters()):
                return number
        return self.layers - 1 if name.startswith("net.") else 0

    def _shortened(self, parts: int) -> tuple[str, ...]:
        """Nothing is left of later stages, nor of a head that was made for the last one."""
        if parts == len(self._parts):
            return ()
        self._parts = self._parts[:parts]
        return tuple(cut(self.net, {id(module) for module in chain(*self._parts)}, "net."))

    def _marked(self, x: Tensor, mask: Tensor) -> Tensor:
        square = mask.view(-1, 1, self.grid.rows, self.grid.columns)
        square = square.repeat_interleave(self.scale, 2).repeat_interleave(self.scale, 3)
        if self.hidden == "add":
            return x + self.mask_token * square
        return torch.where(square, self.mask_token.to(x.dtype), x)

    @torch.no_grad()
    def _check_parts(self, spec: CNN) -> None:
        """Refuses a model that is more than its parts in order."""
        x = picture = probe(spec.channels, next(self.parameters()).device)
        if picture.is_meta:
            return
        self.net.eval()
        for module in chain.from_iterable(self._parts):
            x = module(x)
        if not torch.equal(x, self.net.forward_features(picture)):
            raise _uncut(spec.name)
        self.net.train()


def model_of(name: str, stem: str, channels: int, drop_path: float = 0.0) -> Any:
    """A timm model without its classifier."""
    import timm

    theirs, settings = OURS.get(name, (name, {}))
    if drop_path:  # not every model takes it
        settings = settings | {"drop_path_rate": drop_path}
    net: Any = timm.create_model(theirs, num_classes=0, in_chans=channels, **settings)
    if stem == "small":
        if not isinstance(getattr(net, "conv1", None), nn.Conv2d):
            raise Mistake(f"stem=small: {name} does not begin with one convolution: expected stem=standard")
        net.conv1 = nn.Conv2d(channels, net.conv1.out_channels, 3, 1, 1, bias=False)
        net.maxpool = nn.Identity()
    return net


@cache
def features_of(name: str, stem: str, channels: int) -> tuple[tuple[int, int], ...]:
    """(features, stride) after the stem and after every stage."""
    found = []
    with torch.device("meta"), torch.no_grad():
        net = model_of(name, stem, channels)
        x = probe(channels, torch.device("meta"))
        for part in parts_of(net, name):
            try:
                for module in part:
                    x = module(x)
                found.append((x.shape[1], PROBE // x.shape[2]))
            except (RuntimeError, AssertionError, IndexError, TypeError):
                raise _uncut(name) from None
    if x.dim() != 4 or x.shape[1] != net.num_features:
        raise _uncut(name)
    return tuple(found)


def parts_of(net: nn.Module, name: str) -> list[list[nn.Module]]:
    """The modules of the stem and of each stage; what follows the last stage is part of it."""
    children = dict(net.named_children())
    for names in STAGES:
        if all(stage in children for stage in names):
            order = list(children)
            stages = [children[stage] for stage in names]
            if len(names) == 1:
                stages = list(stages[0].children())
            after = order[order.index(names[-1]) + 1 :]
            stop = next((number for number, child in enumerate(after) if child in HEADS), len(after))
            stem = [children[child] for child in order[: order.index(names[0])]]
            tail = [children[child] for child in after[:stop]]
            return [stem, *([stage] for stage in stages[:-1]), [stages[-1], *tail]]
    raise _uncut(name)


def cut(module: nn.Module, kept: set[int], path: str) -> list[str]:
    """Removes what is neither kept nor around something that is; how the names of its weights began."""
    gone = []
    for name, child in list(module.named_children()):
        below = f"{path}{name}."
        if id(child) in kept:
            continue
        if any(id(inner) in kept for inner in child.modules()):
            gone += cut(child, kept, below)
        else:
            delattr(module, name)
            gone.append(below)
    return gone


def probe(channels: int, device: torch.device) -> Tensor:
    return torch.linspace(-1, 1, channels * PROBE**2, device=device).view(1, channels, PROBE, PROBE)


def _uncut(name: str) -> Mistake:
    return Mistake(f"name={name}: it cannot be cut into a stem and stages: expected a ResNet, a ConvNeXt …")
