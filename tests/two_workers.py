"""The processes of test_world.py: `two_workers.py FOLDER RANK` reads FOLDER/cases.json and writes what comes of
each case to FOLDER/alone, by one process with the whole batch, and to FOLDER/0 and FOLDER/1, by two with half."""

import json
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from mim_ray.config import resolve
from mim_ray.encoders.target import Ema
from mim_ray.encoders.vit import SHAPES, Shape
from mim_ray.methods import METHODS, resolved
from mim_ray.siamese import Siamese
from mim_ray.world import GlobalBatchNorm

PICTURES, IMAGE = 8, (32, 32)
SHAPES["micro"] = Shape(64, 2, 2, 1)
TIMEOUT = timedelta(seconds=60)


def main(folder: Path, rank: int) -> None:
    torch.set_num_threads(1)
    cases = json.loads((folder / "cases.json").read_text())
    write(cases[rank::2], folder / "alone", 0, 1)
    store = f"file://{folder / 'store'}"
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=2, timeout=TIMEOUT)
    write(cases, folder / str(rank), rank, 2)
    dist.destroy_process_group()


def write(cases: list[dict[str, Any]], folder: Path, rank: int, world: int) -> None:
    folder.mkdir(exist_ok=True)
    for case in cases:
        try:
            found = normed(case, rank, world) if "shape" in case else stepped(case, rank, world)
            torch.save(dict(found), folder / f"{case['name']}.pt")
        except Exception:  # the next case may be sound
            (folder / f"{case['name']}.error").write_text(traceback.format_exc())


def mine(rows: int, rank: int, world: int) -> slice:
    return slice(rank * rows // world, (rank + 1) * rows // world)


@contextmanager
def doubled() -> Iterator[None]:
    """Double precision everywhere, so that what differs is no rounding: in single precision an L1 error near zero
    may change its sign with the size of a batch, and a gradient of a ResNet by several percent."""
    single = Tensor.float
    torch.set_default_dtype(torch.float64)
    Tensor.float = Tensor.double  # type: ignore[method-assign]
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)
        Tensor.float = single  # type: ignore[method-assign]


def built(case: dict[str, Any]) -> Siamese:
    """A small one, with a target that follows in long steps."""
    encoder = "resnet-micro" if METHODS[case["method"]]().method.encoder.kind == "cnn" else "micro"
    run = resolved(case["method"], {"encoder": encoder, **case["overrides"]})
    if isinstance(run.method.target, Ema):
        run = resolve(run, {"method.target.momentum": 0.5})
    torch.manual_seed(0)
    return run.method.build(IMAGE, seed=0)


def pictures(seed: int) -> Tensor:
    """Smooth ones."""
    coarse = torch.rand(PICTURES, 3, 6, 6, generator=torch.Generator().manual_seed(seed))
    return (nn.functional.interpolate(coarse, IMAGE, mode="bilinear") * 255).byte()


def stepped(case: dict[str, Any], rank: int, world: int) -> Iterator[tuple[str, Tensor]]:
    """What comes of a step, and `then` of another batch after it; gradients from rank 0: DDP's are one for all."""
    with doubled():
        model, rows = built(case), mine(PICTURES, rank, world)
        wrapped: nn.Module = model
        if world > 1:
            wrapped = DistributedDataParallel(model)
            wrapped.broadcast_buffers = False
        trained = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
        optimiser = torch.optim.SGD(trained.values(), 0.05)
        for step in ("", "then "):
            crops = tuple(pictures(len(step) + crop)[rows] for crop in range(model.method.crops))
            place = torch.arange(PICTURES)[rows]
            measured = wrapped(crops, place + PICTURES * len(step), place)
            yield f"{step}loss", measured.loss.detach()
            yield from ((f"{step}part {name}", part) for name, part in measured.parts.items())
            for name, memory in model.named_buffers():
                if "running" in name:
                    yield f"{step}memory {name}", memory.clone()
            if step:
                return
            measured.loss.backward()
            for name, weight in trained.items():
                assert weight.grad is not None, f"{case['name']}: {name} has no gradient"
                if rank == 0:
                    yield f"gradient {name}", weight.grad
            optimiser.step()
            model.follow(0.5)


def normed(case: dict[str, Any], rank: int, world: int) -> Iterator[tuple[str, Tensor]]:
    """torch's own batch norm alone, ours among others: two batches in training and one after it."""
    shape, rows = case["shape"], mine(case["shape"][0], rank, world)
    norm = (nn.BatchNorm2d if len(shape) == 4 else nn.BatchNorm1d)(shape[1], **case["settings"])
    draw = torch.Generator().manual_seed(0)
    for weight in norm.parameters():
        nn.init.uniform_(weight, 0.5, 2, generator=draw)
    used = norm if world == 1 else GlobalBatchNorm(norm)
    for batch in range(3):
        used.train(batch < 2)
        x = (torch.randn(shape, generator=draw) * 3 + 20)[rows].requires_grad_()
        direction = torch.randn(shape, generator=draw)[rows]
        y = used(x)
        (y * direction).sum().backward()
        assert x.grad is not None
        yield f"rows of output {batch}", y.detach()
        yield f"rows of gradient {batch}", x.grad
    for name, weight in used.named_parameters():
        assert weight.grad is not None
        yield f"sum of gradient {name}", weight.grad
    yield from ((f"memory {name}", memory) for name, memory in used.named_buffers())


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
