"""Notices, heard together: all workers ask after the same steps, which they agree on as they go."""

import time

import torch
import torch.distributed as dist

from mim_ray import world
from mim_ray.training.place import Notice, Place

EVERY_SECONDS = 5.0
"""About how often, however long a step takes."""


class Listener:
    def __init__(self, place: Place) -> None:
        self._place, self._notice = place, Notice.NONE
        self.begin(0)

    def begin(self, done: int) -> None:
        """Steps go on from here; the pace is not known yet, so the next of them is listened to."""
        self._last, self._last_at, self._next = done, time.monotonic(), done + 1

    def is_due(self, done: int) -> bool:
        return done >= self._next

    def hear(self, done: int) -> Notice:
        """The most urgent that any worker was told when they last asked. Called after the same steps by all, also
        where it is not due: since the pace was taken they may have become slow."""
        if not self.is_due(done) and not self._is_late():
            return self._notice
        pace = (time.monotonic() - self._last_at) / max(1, done - self._last)
        most = torch.tensor([float(self._place.notice()), pace], device=self._place.device)
        if world.size() > 1:
            dist.all_reduce(most, dist.ReduceOp.MAX)
        notice, pace = most.tolist()
        self._last, self._last_at = done, time.monotonic()
        self._next = done + max(1, int(EVERY_SECONDS / max(pace, 1e-6)))
        self._notice = Notice(int(notice))
        return self._notice

    def _is_late(self) -> bool:
        """By the clock of the worker that has waited longest."""
        waited = torch.tensor(time.monotonic() - self._last_at, device=self._place.device)
        if world.size() > 1:
            dist.all_reduce(waited, dist.ReduceOp.MAX)
        return float(waited) > EVERY_SECONDS
