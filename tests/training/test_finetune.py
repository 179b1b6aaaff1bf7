"""Our fine-tuning step against one written by hand around timm's model; the LARS probe against scikit-learn."""

from pathlib import Path
from typing import Any

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
from mim_ray.weights.names import encoder_in
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


def test_a_step_is_the_one_written_by_hand_around_timms_model(tmp_path: Path) -> None:
    torch.manual_seed(1)
    theirs: Any = timm.create_model("vit_tiny_patch16_224", img_size=SIDE, num_classes=CLASSES, global_pool="avg")
    theirs.pos_embed.requires_grad_(False)  # ours are fixed
    start = tmp_path / "timm.safetensors"
    outside = ("head.", "fc_norm.")
    state = theirs.state_dict()
    save_file({name: w.contiguous() for name, w in state.items() if not name.startswith(outside)}, start)
    run = resolved("finetune", {**PLAIN, "start": str(start)})
    plan = planned(run, STEPS)
    ours = Stepper(run, Place(device=torch.device("cpu")), plan, pieces=1)
    last = {f"measure.{name.replace('fc_', '')}": w for name, w in state.items() if name.startswith(outside)}
    ours.begin()
    ours.model.load_state_dict(ours.model.state_dict() | last)
    parts = param_groups_layer_decay(theirs, 0.05, no_weight_decay_list=theirs.no_weight_decay(), layer_decay=0.65)
    optimiser = torch.optim.AdamW(parts, lr=0.0, betas=(0.9, 0.999))
    mean, std = (torch.tensor(row)[:, None, None] for row in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    for batch in batches():
        assert batch.labels is not None
        loss = F.cross_entropy(theirs((batch.crops[0] / 255 - mean) / std), batch.labels, label_smoothing=0.1)
        optimiser.zero_grad()
        loss.backward()
        for part in optimiser.param_groups:
            part["lr"] = float(plan.lr[batch.step]) * part["lr_scale"]
        optimiser.step()
        assert ours(batch).loss.item() == pytest.approx(loss.item(), rel=1e-4)
    moved = ours.model.online.encoder.state_dict()
    for name, weight in theirs.state_dict().items():
        if name.startswith("blocks.") or name == "cls_token":
            torch.testing.assert_close(moved[name], weight, rtol=1e-3, atol=2e-4)


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
