"""What every worker has, brought to all of them; objects, so that it lies in host memory over NCCL too."""

from typing import Any

import torch.distributed as dist

from mim_ray import world


def gathered_objects(mine: Any) -> list[Any]:
    """What each worker has, in the order of their ranks."""
    if world.size() == 1:
        return [mine]
    every: list[Any] = [None] * world.size()
    dist.all_gather_object(every, mine)
    return every
