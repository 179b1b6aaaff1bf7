"""Our fine-tuning step against one written by hand around timm's model; the LARS probe against scikit-learn."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import timm
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from sklearn.linear_model import LogisticRegression
from timm.optim._param_groups import param_groups_layer_decay
from torch import Tensor

from mim_ray.data.loader import Batch
from mim_ray.encoders.target import Labels
from mim_ray.errors import Failure
from mim_ray.methods import resolved
from mim_ray.run import Optim
from mim_ray.training.optim import groups, optimiser_for
from mim_ray.training.place import Place
from mim_ray.training.schedule import planned
from mim_ray.training.step import Stepper
from mim_ray.weights.names import encoder_in, to_timm
from tests.training.runs import job_at, worked

CLASSES, PICTURES, STEPS, SIDE = 7, 12, 4, 32
PLAIN: dict[str, object] = {
    "encoder": "vit-tiny", "data.crop.size": (SIDE, SIDE), "batch": PICTURES, "epochs": 1, "precision": "fp32",
    "schedule.warmup_epochs": 0, "method.measure.classes": CLASSES, "method.encoder.drop_path": 0.0,
    "method.shared.augment": None, "method.shared.erase": None, "method.shared.cutmix": None,
    "method.shared.mixup": None,
}  # fmt: skip


def batches() -> list[Batch]:
    draw = torch.Generator().manual_seed(0)
    found = []
    for step in range(STEPS):
        crops = torch.randint(0, 256, (PICTURES, 3, SIDE, SIDE), dtype=torch.uint8, generator=draw)
        labels = torch.randint(0, CLASSES, (PICTURES,), generator=draw)
        found.append(Batch(step, (crops,), labels, torch.arange(PICTURES), torch.arange(PICTURES)))
    return found


FAST: dict[str, object] = {**PLAIN, "optim.blr": 0.05, "optim.weight_decay": 1.0}
"""The recipe, but so that rounding is small beside what the steps do, and what decays is not."""

NOTICED = 1e-3
"""How far weights may end from where they should, as a share of the way they went: rounding is a tenth of it."""

OUTSIDE = ("head.", "fc_norm.")
State = dict[str, Tensor]


class Taken(NamedTuple):
    """All steps, from the same weights."""

    losses: list[float]
    weights: State
    """By timm's names."""


def timms() -> Any:
    torch.manual_seed(1)
    model: Any = timm.create_model("vit_tiny_patch16_224", img_size=SIDE, num_classes=CLASSES, global_pool="avg")
    torch.nn.init.normal_(model.cls_token, std=0.02)  # or its decay would not show
    model.pos_embed.requires_grad_(False)  # ours are fixed
    return model


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Taken:
    start, state = tmp_path_factory.mktemp("start") / "timm.safetensors", timms().state_dict()
    save_file({name: w.contiguous() for name, w in state.items() if not name.startswith(OUTSIDE)}, start)
    run = resolved("finetune", {**FAST, "start": str(start)})
    stepper = Stepper(run, Place(device=torch.device("cpu")), planned(run, STEPS), pieces=1)
    stepper.begin()
    last = {name: f"measure.{name.replace('fc_', '')}" for name in state if name.startswith(OUTSIDE)}
    stepper.model.load_state_dict(stepper.model.state_dict() | {own: state[name] for name, own in last.items()})
    losses = [stepper(batch).loss.item() for batch in batches()]
    ended = stepper.model.state_dict()
    return Taken(losses, to_timm(ended, patch=16) | {name: ended[own] for name, own in last.items()})


def by_hand(
    *,
    layer_decay: float = 0.65,
    weight_decay: float = 1.0,
    spared: Sequence[str] = ("cls_token",),
    betas: tuple[float, float] = (0.9, 0.999),
    smoothing: float = 0.1,
) -> Taken:
    model, run, losses = timms(), resolved("finetune", FAST), []
    rates = planned(run, STEPS).lr
    parts = param_groups_layer_decay(model, weight_decay, no_weight_decay_list=spared, layer_decay=layer_decay)
    optimiser = torch.optim.AdamW(parts, lr=0.0, betas=betas)
    mean, std = (torch.tensor(row)[:, None, None] for row in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    for batch in batches():
        assert batch.labels is not None
        logits = model((batch.crops[0] / 255 - mean) / std)
        loss = F.cross_entropy(logits, batch.labels, label_smoothing=smoothing)
        optimiser.zero_grad()
        loss.backward()
        for part in optimiser.param_groups:
            part["lr"] = float(rates[batch.step]) * part["lr_scale"]
        optimiser.step()
        losses.append(loss.item())
    return Taken(losses, model.state_dict())


def apart(found: State, wanted: State) -> dict[str, float]:
    """How far each weight's way from the start is from the wanted one, as a share of that.

    Where a gradient is nothing but rounding Adam makes whole steps of it: so it is for the keys' biases, which
    softmax does not see, and may be for one number in a hundred elsewhere.
    """
    shares = {}
    for name, start in timms().state_dict().items():
        ways = [weights[name] - start for weights in (found, wanted)]
        if name.endswith("qkv.bias"):
            ways = [torch.cat([way.chunk(3)[0], way.chunk(3)[2]]) for way in ways]
        if name != "pos_embed":
            way, off = ways[1].square().mean().sqrt(), (ways[0] - ways[1]).abs().flatten()
            shares[name] = (off.quantile(0.99) / way).item()
    return shares


def test_steps_are_those_written_by_hand_around_timms_model(ours: Taken) -> None:
    theirs = by_hand()
    assert ours.losses == pytest.approx(theirs.losses, rel=1e-4)
    shares = apart(ours.weights, theirs.weights)
    assert len(shares) == 151
    assert {name: share for name, share in shares.items() if not share < NOTICED} == {}
    assert torch.equal(ours.weights["pos_embed"], theirs.weights["pos_embed"])


@pytest.mark.parametrize(
    ("wrong", "where"),
    [
        ({"layer_decay": 0.66}, "blocks.0.attn.qkv.weight"),
        ({"layer_decay": 1.0}, "patch_embed.proj.weight"),
        ({"weight_decay": 0.9}, "blocks.4.attn.proj.weight"),
        ({"weight_decay": 0.9}, "head.weight"),
        ({"spared": ()}, "cls_token"),
        ({"spared": ("cls_token", "head.weight")}, "head.weight"),
        ({"betas": (0.9, 0.95)}, "head.bias"),
        ({"smoothing": 0.0}, "fc_norm.weight"),
    ],
)
def test_a_step_of_another_recipe_would_be_noticed(ours: Taken, wrong: dict[str, Any], where: str) -> None:
    assert apart(ours.weights, by_hand(**wrong).weights)[where] > 2 * NOTICED


AVERAGED: dict[str, object] = {**PLAIN, "encoder": "micro", "optim.average": 0.75, "optim.blr": 1e-2}


def test_the_average_follows_every_step_and_is_what_is_judged() -> None:
    run = resolved("finetune", AVERAGED)
    stepper = Stepper(run, Place(device=torch.device("cpu")), planned(run, STEPS), pieces=1)
    wanted = {name: weight.clone() for name, weight in stepper.model.named_parameters()}
    for batch in batches():
        stepper(batch)
        for name, weight in stepper.model.named_parameters():
            wanted[name] = 0.75 * wanted[name] + 0.25 * weight.detach()
    assert stepper.judged is not stepper.model
    for name, weight in stepper.judged.named_parameters():
        torch.testing.assert_close(weight, wanted[name])
    weights, optimiser = stepper.tensors()
    again = Stepper(run, Place(device=torch.device("cpu")), planned(run, STEPS), pieces=1)
    again.load(weights, optimiser)
    own = "blocks.0.mlp.fc1.weight"
    for stepped, name in ((again.model, f"online.encoder.{own}"), (again.judged, f"average.online.encoder.{own}")):
        assert torch.equal(stepped.online.encoder.state_dict()[own], weights[name])
    assert torch.equal(encoder_in(weights)[own], weights[f"average.online.encoder.{own}"])
    with pytest.raises(Failure, match="it is of another model"):
        again.load(
            {name: weight for name, weight in weights.items() if not name.startswith("average.")}
            | {"average.nothing": torch.zeros(1)},
            optimiser,
        )


@pytest.mark.parametrize(("method", "encoder"), [("finetune", "micro"), ("finetune_a3", "resnet-micro")])
def test_a_run_with_an_average_goes_on_as_it_was(method: str, encoder: str, tmp_path: Path) -> None:
    changes: dict[str, object] = {
        "encoder": encoder, "data.val": "sample:shapes:n=32", "optim.average": 0.9, "method.measure.classes": 8,
        "eval.size": None, "eval.every_epochs": 1,
    }  # fmt: skip
    whole = worked(job_at(tmp_path / "whole", method, changes))
    assert whole.code == 0, whole.said
    job = job_at(tmp_path / "killed", method, changes)
    assert worked(job, die_at=5).code == -9
    ended = worked(job)
    assert ended.result["weights_sha256"] == whole.result["weights_sha256"]
    assert ended.result["metrics"]["eval/top1"] == whole.result["metrics"]["eval/top1"]


def features(count: int, draw: torch.Generator, centres: Tensor) -> tuple[Tensor, Tensor]:
    labels = torch.randint(0, len(centres), (count,), generator=draw)
    return centres[labels] + torch.randn(count, centres.shape[1], generator=draw), labels


def test_the_lars_probe_finds_what_logistic_regression_finds() -> None:
    from mim_ray.measures.classify import Probe
    from mim_ray.views import Labelled, Tokens, View

    draw = torch.Generator().manual_seed(0)
    centres = 1.2 * torch.randn(5, 24, generator=draw)
    (train, labels), (val, wanted) = (features(count, draw, centres) for count in (2000, 1000))
    run = resolved("linear", {"encoder": "micro", "method.measure.classes": 5, "method.measure.rates": "1,10"})
    assert isinstance(run.method.target, Labels)
    assert isinstance(run.method.measure, Probe)
    model = run.method.build((32, 32))
    head: Any = run.method.measure.build(_given(24))
    parts = [
        {"params": [head.heads[number].weight], "scale": rate, "decays": False, "weight_decay": 0.0}
        for number, rate in enumerate((1.0, 10.0))
    ] + [
        {"params": [head.heads[number].bias], "scale": rate, "decays": False, "weight_decay": 0.0}
        for number, rate in enumerate((1.0, 10.0))
    ]
    optimiser = optimiser_for(parts, Optim(algorithm="lars"))
    nothing = View(torch.empty(0), None)
    for step in range(400):
        measured = head(Tokens(train[:, None], train, None), Labelled(labels), nothing, nothing)
        optimiser.zero_grad()
        measured.loss.backward()
        for part in optimiser.param_groups:
            part["lr"] = 0.4 * part["scale"] * (1 - step / 400)
        optimiser.step()
    head.eval()
    reference = LogisticRegression(max_iter=2000).fit(train.numpy(), labels.numpy())
    theirs = torch.from_numpy(reference.predict(val.numpy()))
    right = (theirs == wanted).float().mean().item()
    found = {rate: logits.argmax(1) for rate, logits in head.logits(Tokens(val[:, None], val, None)).items()}
    best = max((ours == wanted).float().mean().item() for ours in found.values())
    assert right > 0.9
    assert best == pytest.approx(right, abs=0.01)
    assert max((ours == theirs).float().mean().item() for ours in found.values()) > 0.97
    assert {part["scale"] for part in groups(model, run.optim)} == {1.0, 10.0}


def _given(width: int) -> Any:
    from mim_ray.views import Given, Grid

    grid = Grid(1, 1, 1)
    return Given(width, 3, grid, grid, False, (False, False), False)
