"""The workers of a run as one group of torch's, made and ended by themselves.

Ray would make it before it looks after the workers, and wait for one that dies meanwhile; and it would end it
under a running step when others come or go, which then is a step of each worker alone.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import ray.train.collective
import ray.util
import torch.distributed as dist
from ray.train.backend import Backend
from ray.train.torch import TorchConfig
from torch.distributed import TCPStore  # type: ignore[attr-defined]

PATIENCE = timedelta(minutes=30)
"""How long a worker waits for another in a step; one that dies is seen by Ray long before."""


class _NoGroup(Backend):  # type: ignore[misc]
    share_cuda_visible_devices = True


class OwnGroup(TorchConfig):  # type: ignore[misc]
    """Workers that know each other's devices and make their group themselves."""

    @property
    def backend_cls(self) -> type[Backend]:
        return _NoGroup


@contextmanager
def group(rank: int, world: int, backend: str) -> Iterator[None]:
    """Entered by every worker; one alone needs none."""
    if world == 1:
        yield
        return
    store, address = None, None
    if rank == 0:
        host = ray.util.get_node_ip_address()
        store = TCPStore(host, 0, world, is_master=True, timeout=PATIENCE, wait_for_workers=False)
        address = host, store.port
    host, port = ray.train.collective.broadcast_from_rank_zero(address)
    store = store or TCPStore(host, port, world, is_master=False, timeout=PATIENCE)
    dist.init_process_group(backend, store=store, rank=rank, world_size=world, timeout=PATIENCE)
    try:
        yield
    finally:
        dist.destroy_process_group()
