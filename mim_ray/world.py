"""What the workers of one run do together inside a step; alone, each of these costs nothing."""

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.nn.functional import all_gather, all_reduce

from mim_ray.errors import Mistake


def size() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    return dist.get_rank() if size() > 1 else 0


def gathered(x: Tensor, *, gradient: bool) -> Tensor:
    """The rows of all workers, in the order of their ranks; equal numbers of rows."""
    if size() == 1:
        return x if gradient else x.detach()
    if gradient:
        return torch.cat(all_gather(x.contiguous()))
    found = [torch.empty_like(x) for _ in range(size())]
    dist.all_gather(found, x.detach().contiguous())
    return torch.cat(found)


def averaged(x: Tensor) -> Tensor:
    """The mean over workers, through which the gradient flows."""
    return x if size() == 1 else all_reduce(x) / size()


class GlobalBatchNorm(nn.SyncBatchNorm):
    """Batch statistics over all workers: torch's own where it can (CUDA), the same on a CPU, which torch lacks."""

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
            x = super().forward(x)
        elif size() == 1 or not self.training:
            x = nn.modules.batchnorm._BatchNorm.forward(self, x)
        else:
            x = self._across_workers(x)
        return self.after(x)  # type: ignore[no-any-return]

    def _across_workers(self, x: Tensor) -> Tensor:
        over, across = [0, *range(2, x.dim())], (1, -1, *[1] * (x.dim() - 2))
        mean = averaged(x.float().mean(over))
        centred = x - mean.view(across)
        variance = averaged(centred.float().square().mean(over))
        self._remember(mean, variance, size() * x.numel() // x.shape[1])
        x = centred * (variance + self.eps).rsqrt().view(across)
        return x if self.weight is None else x * self.weight.view(across) + self.bias.view(across)

    @torch.no_grad()
    def _remember(self, mean: Tensor, variance: Tensor, rows: int) -> None:
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked.add_(1)
        momentum = 0.0 if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean, momentum)
        self.running_var.lerp_(variance * rows / (rows - 1), momentum)


def with_global_norms(module: nn.Module) -> nn.Module:
    """Every batch norm inside replaced by one over all workers, weights and names kept."""
    if isinstance(module, nn.modules.batchnorm._BatchNorm):
        return GlobalBatchNorm(module)
    for name, child in module.named_children():
        setattr(module, name, with_global_norms(child))
    return module
