"""What a thread beside the training draws is its own: the steps' numbers stay as they are."""

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode


class Apart(TorchDispatchMode):
    """For this thread alone: what fills a tensor by chance, as the making of a model does, draws from a generator
    that nobody else has."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._generator = torch.Generator()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        words = dict(kwargs or {})
        if torch.Tag.nondeterministic_seeded in func.tags and func._schema.is_mutable:
            words["generator"] = self._generator
        return func(*args, **words)
