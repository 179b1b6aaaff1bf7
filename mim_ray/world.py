"""What the workers of one run do together inside a step; alone, each of these costs nothing."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from mim_ray.errors import Mistake


def size() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    return dist.get_rank() if size() > 1 else 0


_rows: tuple[int, ...] | None = None
"""How many pictures each worker has in the batch at hand; None: all alike."""


@contextmanager
def dividing(rows: Sequence[int]) -> Iterator[None]:
    """Inside, worker r has rows[r] pictures: a batch need not be a multiple of the workers."""
    global _rows
    before, _rows = _rows, None if len(set(rows)) == 1 else tuple(rows)
    try:
        yield
    finally:
        _rows = before


def weight() -> float:
    """What to multiply a mean over a worker's pictures by, so that the workers' mean is over all pictures."""
    return 1.0 if _rows is None else _rows[rank()] * size() / sum(_rows)


def first_row(rows: int) -> int:
    """Where this worker's rows begin among those of all."""
    return rank() * rows if _rows is None else sum(_rows[: rank()])


def gathered(x: Tensor, *, gradient: bool) -> Tensor:
    """The rows of all workers, in the order of their ranks."""
    if size() == 1:
        return x if gradient else x.detach()
    if _rows is not None:
        x = torch.cat([x, x.new_zeros(max(_rows) - len(x), *x.shape[1:])])
    every: Tensor = _Gathered.apply(x) if gradient else _together(x.detach())
    if _rows is None:
        return every
    parts = every.unflatten(0, (size(), -1))
    return torch.cat([part[:rows] for part, rows in zip(parts, _rows, strict=True)])


def averaged(x: Tensor) -> Tensor:
    """The mean over all pictures of a mean over each worker's, through which the gradient flows."""
    return x if size() == 1 else _Summed.apply(x * weight()) / size()


def _together(x: Tensor) -> Tensor:
    every = x.new_empty(size() * len(x), *x.shape[1:])
    dist.all_gather_into_tensor(every, x.contiguous())
    return every


def _sum(x: Tensor) -> Tensor:
    x = x.clone(memory_format=torch.contiguous_format)
    dist.all_reduce(x)
    return x


class _Gathered(torch.autograd.Function):
    """Every worker's loss depends on all rows: a row's gradient is the sum over workers."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.rows = len(x)
        return _together(x)

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> Tensor:
        return _sum(slope)[rank() * ctx.rows : (rank() + 1) * ctx.rows]


class _Summed(torch.autograd.Function):
    @staticmethod
    def forward(_: Any, x: Tensor) -> Tensor:
        return _sum(x)

    @staticmethod
    def backward(_: Any, slope: Tensor) -> Tensor:
        return _sum(slope)


def gathered_objects(mine: Any) -> list[Any]:
    """What each worker has, in the order of their ranks; in host memory over NCCL too."""
    if size() == 1:
        return [mine]
    every: list[Any] = [None] * size()
    dist.all_gather_object(every, mine)
    return every


class GlobalBatchNorm(nn.modules.batchnorm._BatchNorm):
    """Batch statistics over all workers: torch's own where it can (CUDA), the same on a CPU, which torch lacks.

    It is no SyncBatchNorm by class, for DDP refuses those on a CPU.
    """

    process_group = None
    _check_input_dim = nn.SyncBatchNorm._check_input_dim
    _check_non_zero_input_channels = nn.SyncBatchNorm._check_non_zero_input_channels

    def __init__(self, norm: nn.modules.batchnorm._BatchNorm) -> None:
        super().__init__(norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats)
        self.load_state_dict(norm.state_dict())
        self.train(norm.training)
        # timm's fused norms carry what follows them.
        self.after = nn.Sequential(*(getattr(norm, part) for part in ("drop", "act") if hasattr(norm, part)))

    def forward(self, x: Tensor) -> Tensor:
        if self.training and x.numel() == x.shape[1] and size() == 1:
            raise Mistake("batch=1: a batch norm needs more than one picture: expected at least 2")
        if x.is_cuda:
            x = nn.SyncBatchNorm.forward(self, x)  # type: ignore[arg-type]
        elif size() == 1 or not self.training:
            x = super().forward(x)
        else:
            x = self._across_workers(x)
        return self.after(x)  # type: ignore[no-any-return]

    def _across_workers(self, x: Tensor) -> Tensor:
        over, across = [0, *range(2, x.dim())], (1, -1, *[1] * (x.dim() - 2))
        mean = averaged(x.float().mean(over))
        centred = x - mean.view(across)
        variance = averaged(centred.float().square().mean(over))
        self._remember(mean, variance, round(size() * x.numel() / x.shape[1] / weight()))
        x = centred * (variance + self.eps).rsqrt().view(across)
        return x if self.weight is None else x * self.weight.view(across) + self.bias.view(across)

    @torch.no_grad()
    def _remember(self, mean: Tensor, variance: Tensor, rows: int) -> None:
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked.add_(1)
        momentum = 1 / self.num_batches_tracked if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean, momentum)
        self.running_var.lerp_(variance * rows / (rows - 1), momentum)


def with_global_norms(module: nn.Module) -> nn.Module:
    """Every batch norm inside replaced by one over all workers, weights and names kept."""
    if isinstance(module, nn.modules.batchnorm._BatchNorm):
        return GlobalBatchNorm(module)
    for name, child in module.named_children():
        setattr(module, name, with_global_norms(child))
    return module
