"""Counter of the times that a training waits for its device."""

from __future__ import annotations

import threading
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

_MESSAGE = "called a synchronizing CUDA operation"
"""What torch warns of in its debug mode (``c10/cuda/CUDAFunctions.cpp``)."""
_HERE = __file__


class Synchronisations:
    """Counts synchronisations, by the lines of Python that ask for them.

    On CUDA they are those that torch's debug mode warns of, and the calls of ``synchronize``, which
    it does not. On a CPU nothing waits: what would on a GPU counts, the numbers read from tensors
    in the thread that began.

    Install it before a training is built, so that functions which that keeps are counted.
    """

    def __init__(self, device: str) -> None:
        self.places: Counter[str] = Counter()
        self._on_gpu = device.startswith("cuda")
        self._counting: ExitStack | None = None
        if self._on_gpu:
            for owner, name in (
                (torch.cuda, "synchronize"),
                (torch.cuda.Event, "synchronize"),
                (torch.cuda.Stream, "synchronize"),
            ):
                setattr(owner, name, self._counted(getattr(owner, name)))

    def begin(self) -> None:
        """Count from here on."""
        self._counting = ExitStack()
        if self._on_gpu:
            self._counting.enter_context(warnings.catch_warnings())
            warnings.simplefilter("always")
            warnings.showwarning = self._warned
            torch.cuda.set_sync_debug_mode("warn")
            self._counting.callback(torch.cuda.set_sync_debug_mode, "default")
        else:
            self._counting.enter_context(_Reads(self.places))

    def end(self) -> int:
        """Stop counting, and return the number."""
        assert self._counting is not None
        self._counting.close()
        self._counting = None
        return self.places.total()

    def most(self, count: int = 12) -> list[str]:
        """Return the lines that ask most often, each with its number."""
        return [f"{number} × {place}" for place, number in self.places.most_common(count)]

    def _warned(self, message: Any, category: Any, filename: str, line: int, *_: Any) -> None:
        if _MESSAGE in str(message):
            self.places[f"{_short(filename)}:{line}"] += 1

    def _counted(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*args: Any, **kwargs: Any) -> Any:
            if self._counting is not None:
                self.places[_caller()] += 1
            return function(*args, **kwargs)

        return counted


class _Reads(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the numbers that are read from tensors."""

    def __init__(self, places: Counter[str]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._places = places

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Call the operation, and count it if it reads a number."""
        if function is torch.ops.aten._local_scalar_dense.default:
            self._places[_caller()] += 1
        return function(*args, **(kwargs or {}))


def _caller() -> str:
    """Return the line that called into torch."""
    for frame in reversed(traceback.extract_stack(limit=12)):
        if frame.filename != _HERE and "/torch/" not in frame.filename:
            return f"{_short(frame.filename)}:{frame.lineno}"
    return f"thread {threading.current_thread().name}"


def _short(filename: str) -> str:
    """Return a file's name from its package on."""
    _, packages, inside = filename.rpartition("site-packages/")
    if packages:
        return inside
    for root in ("/sweeper/", "/benchmarks/"):
        if root in filename:
            return root.strip("/") + "/" + filename.partition(root)[2]
    return filename
