"""A device that cannot be read: torch's ``meta``, in the place of a GPU.

A training may queue any work for a GPU, but what it reads back, it waits for. Reading a meta tensor
is an error: ``item``, ``tolist``, ``bool``, a mask as an index, ``nonzero``, a copy to the host.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

DEVICE = torch.device("meta")


@contextmanager
def unread_device() -> Iterator[None]:
    """Let ``autocast`` be asked about the device: it is off there."""
    enabled, autocast = torch.is_autocast_enabled, torch.autocast

    def is_enabled(kind: str = "cuda") -> bool:
        return kind != "meta" and enabled(kind)

    def context(kind: str, *args: Any, **kwargs: Any) -> Any:
        return nullcontext() if kind == "meta" else autocast(kind, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(torch, "is_autocast_enabled", is_enabled)
        patched.setattr(torch, "autocast", context)
        yield


class Copies(TorchDispatchMode):
    """Counts the copies from the host to the device within the block."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0
        self.operations: Counter[str] = Counter()

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Call the operation."""
        result = function(*args, **(kwargs or {}))
        self.operations[str(function)] += 1
        tensors = [each for each in args if isinstance(each, torch.Tensor)]
        outputs = result if isinstance(result, tuple | list) else [result]
        arrived = any(isinstance(each, torch.Tensor) and each.is_meta for each in outputs)
        # Numbers of the host come along with the operation; tensors of the host are copied.
        self.count += arrived and any(not each.is_meta and each.ndim for each in tensors)
        return result
