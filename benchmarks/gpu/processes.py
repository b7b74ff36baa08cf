"""Processes that measure, started together and ended with the time they have."""

from __future__ import annotations

import os
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from sweeper.execution.worker.gpu_memory import allocator_settings
from sweeper.records import Resources

_CONTEXT = get_context("forkserver")
_GRACE = 10.0
"""Seconds that a process has to end once another of its turn has failed."""
_MEETING = 120.0
"""Seconds in which all processes of a turn come to their first counted step."""
_WORK = {
    "describe": "benchmarks.gpu.machine",
    "forecast": "benchmarks.gpu.forecast",
    "sample": "benchmarks.gpu.sampling",
    "train": "benchmarks.gpu.training",
}
"""Modules of the functions that processes call: each gets a task, and a function that waits until
all processes of the turn have called it, and returns what it measured."""


def start_server() -> None:
    """Import what all processes need once, in a process that never touches a device."""
    # A library that only asks if there is a GPU would otherwise spoil CUDA for the forks.
    os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "1"
    # As in a trial's process.
    allocator_settings(Resources(directory=".", device="cuda:0", threads=1), os.environ)
    _CONTEXT.set_forkserver_preload(["benchmarks.gpu.preload"])


@dataclass(frozen=True)
class Ended:
    """How a process of a turn ended.

    Attributes:
        found: What it measured; None if it failed.
        message: Why it failed.
        out_of_memory: True if that is for want of memory.
    """

    found: dict[str, Any] | None = None
    message: str = ""
    out_of_memory: bool = False


def together(work: str, tasks: Sequence[Any], seconds: float, log: Path) -> list[Ended]:
    """Do ``tasks`` at the same time, each in a process that ends with it.

    Args:
        work: Name of a function of ``_WORK``.
        tasks: The tasks.
        seconds: Time after which those still running are ended.
        log: Where to write what the processes print.
    """
    barrier = _CONTEXT.Barrier(len(tasks))
    processes, readers = [], []
    for task in tasks:
        reader, writer = _CONTEXT.Pipe(duplex=False)
        process = _CONTEXT.Process(target=_main, args=(work, task, barrier, writer, log))
        process.start()
        writer.close()
        processes.append(process)
        readers.append(reader)
    ended: dict[int, Ended] = {}
    deadline = time.monotonic() + seconds
    try:
        while len(ended) < len(tasks) and (left := deadline - time.monotonic()) > 0:
            open_readers = {id(readers[at]): at for at in range(len(tasks)) if at not in ended}
            for ready in wait([readers[at] for at in open_readers.values()], left):
                at = open_readers[id(ready)]
                ended[at] = _received(readers[at], processes[at], log)
                if ended[at].found is None:
                    # The others may wait for it in vain.
                    deadline = min(deadline, time.monotonic() + _GRACE)
    finally:
        for process in processes:
            process.join(_GRACE if len(ended) == len(tasks) else 0)
            if process.is_alive():
                process.kill()
                process.join()
            process.close()
    failed = any(one.found is None for one in ended.values())
    why = "another process of its turn failed" if failed else f"it took more than {seconds:.0f} s"
    return [ended.get(at, Ended(message=why)) for at in range(len(tasks))]


def _received(reader: Connection, process: Any, log: Path) -> Ended:
    try:
        ended: Ended = reader.recv()
    except EOFError:
        process.join()
        lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        last = f": {lines[-1]}" if lines else ""
        return Ended(message=f"its process ended with exit code {process.exitcode}{last}")
    return ended


def _main(work: str, task: Any, barrier: Any, writer: Connection, log: Path) -> None:
    """Do a task in this process, and send how it ended."""
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(descriptor, stream)

    def meet() -> None:
        barrier.wait(_MEETING)

    try:
        function = getattr(import_module(_WORK[work]), work)
        ended = Ended(function(task, meet))
    except Exception as error:  # of a library, a driver or ours: the other turns go on
        from sweeper.execution.worker.out_of_memory import is_out_of_memory

        traceback.print_exc()
        lines = str(error).strip().splitlines() or [""]
        message = f"{type(error).__name__}: {lines[0]}"[:400]
        ended = Ended(message=message, out_of_memory=is_out_of_memory(error))
    writer.send(ended)
    writer.close()
    # Threads of libraries may wait for others that are gone.
    os._exit(0)
