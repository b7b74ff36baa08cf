"""CUDA graphs: a pass that is launched as one, because its shapes and places do not change."""

from __future__ import annotations

import gc
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from typing import Any

import torch

_SYNCHRONISING = "called a synchronizing CUDA operation"
"""What torch warns of when a pass makes the host wait, which a graph cannot hold."""
_REHEARSALS = 2
"""Runs of a pass in which the host may wait for what happens once."""


class Graphs:
    """Graphs of one rollout, which share their memory.

    Attributes:
        problem: Why passes are not captured, or no longer; None if they are.
    """

    def __init__(self, device: torch.device, problem: str | None = None) -> None:
        self.problem = problem
        if device.type != "cuda" and problem is None:
            self.problem = f"there are no graphs on {device.type}"
        self._stream: Any = None if self.problem is not None else _stream(device)
        self._pool: Any = None
        self._captured: list[Any] = []

    @contextmanager
    def stream(self) -> Iterator[None]:
        """Run a block on the stream of the graphs, between what is queued before and after it."""
        if self._stream is None:
            yield
            return
        outer = torch.cuda.current_stream(self._stream.device)
        self._stream.wait_stream(outer)
        try:
            with torch.cuda.stream(self._stream):
                yield
        finally:
            outer.wait_stream(self._stream)

    def capture(self, run: Callable[[], None]) -> Callable[[], None]:
        """Capture a pass, which does not run; return what runs it, or ``run`` if that fails.

        The pass must have run on this stream before, so that nothing in it happens for the first
        time: libraries are loaded, and autocast has rounded the weights outside the graphs' memory.
        """
        graph = torch.cuda.CUDAGraph()
        try:
            if self._pool is None:
                self._pool = torch.cuda.graph_pool_handle()
            with _nothing_collected():
                # Other threads may use the device meanwhile.
                graph.capture_begin(pool=self._pool, capture_error_mode="thread_local")
                try:
                    run()
                finally:
                    graph.capture_end()
        except RuntimeError as error:
            lines = str(error).strip().splitlines() or [type(error).__name__]
            self.problem = f"a graph could not be captured: {lines[0]}"
            self._end_capture()
            return run
        self._captured.append(graph)
        return graph.replay

    def rehearse(self, run: Callable[[], None]) -> bool:
        """Run a pass, and return whether a graph can hold it.

        A capture that fails costs torch some of its order, so what makes the host wait is found
        beforehand.
        """
        before = torch.cuda.get_sync_debug_mode()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            try:
                run()
            finally:
                torch.cuda.set_sync_debug_mode(before)
        return not any(_SYNCHRONISING in str(warning.message) for warning in caught)

    def _end_capture(self) -> None:
        """Let torch know that no capture is under way, after one that failed.

        Its random numbers on the device stay in the state of a capture until one ends well.
        """
        graph = torch.cuda.CUDAGraph()
        with suppress(RuntimeError):
            graph.capture_begin(capture_error_mode="thread_local")
            torch.zeros(1, device=self._stream.device)
            graph.capture_end()

    def release(self) -> None:
        """Give the graphs' memory back to torch's allocator."""
        # After a fault of the device, its error is on its way already.
        with suppress(RuntimeError):
            if self._captured and self._stream is not None:
                self._stream.synchronize()
            for graph in self._captured:
                graph.reset()
            if self._captured:
                # Torch keeps a pool that no graph uses any more for no other allocation.
                torch.cuda.empty_cache()
        self._captured.clear()
        self._pool = None


class GraphedPass:
    """Pass that runs as it is the first times, and as a graph from then on."""

    def __init__(self, graphs: Graphs, run: Callable[[], None]) -> None:
        self._graphs = graphs
        self._run = run
        self._rehearsals = _REHEARSALS
        self._captured = False

    def __call__(self) -> None:
        """Run the pass once."""
        graphs = self._graphs
        if self._captured or graphs.problem is not None:
            self._run()
        elif self._rehearsals > 0:
            self._rehearsals -= 1
            if graphs.rehearse(self._run):
                self._rehearsals = 0
            elif self._rehearsals == 0:
                graphs.problem = "the model's pass makes the host wait for the device"
        else:
            self._captured = True
            self._run = graphs.capture(self._run)
            self._run()


@lru_cache
def _stream(device: torch.device) -> Any:
    """Return the stream of a device's graphs: libraries keep memory for every stream they see."""
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]


@contextmanager
def _nothing_collected() -> Iterator[None]:
    """Keep the garbage collector out of a capture, where it could end other graphs."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
