"""What processes do on a GPU for a test."""

from __future__ import annotations

import base64
import pickle
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from torch.multiprocessing.reductions import rebuild_cuda_tensor

from sweeper.execution.executor import Spec
from sweeper.records import Outcome

SMALL, LARGE = 0.1, 0.6
"""Shares of a GPU's memory that are taken."""


def take_memory(spec: Spec) -> Outcome:
    """Take a small share of the GPU, then a large one; tell which could be had."""
    started, device = time.time(), spec.place.device
    whole = torch.cuda.get_device_properties(device).total_memory
    had: list[str] = []
    kept: list[Any] = []
    for share in (SMALL, LARGE):
        try:
            kept.append(torch.empty(int(whole * share), dtype=torch.uint8, device=device))
        except torch.OutOfMemoryError:
            continue
        had.append(f"{share}")
    torch.cuda.synchronize()
    return Outcome(state="completed", started=started, finished=time.time(), notes=(device, *had))


def fail_an_assertion(spec: Spec) -> Outcome:
    """Read beyond a tensor's end, and tell what a job makes of the error."""
    from sweeper.execution.worker.run import failure_of

    started, device = time.time(), spec.place.device
    try:
        read = torch.zeros(4, device=device)[torch.tensor([9], device=device)]
        found = f"read {float(read.sum())}"
    except RuntimeError as error:
        failure = failure_of(error, "train", spec)
        return Outcome(state="failed", failure=failure, started=started, finished=time.time())
    return Outcome(state="completed", notes=(found,), started=started, finished=time.time())


def train_together(spec: Spec) -> Outcome:
    """Train one case in all processes of a trial, and leave the result in its directory."""
    from tests.support import together

    started, directory = time.time(), Path(spec.place.directory)
    for name in ("gkd, beta 0.5", "sharded student", "both sharded"):
        own = spec.place.model_copy(update={"directory": str(directory / name)})
        result = together.train(name, own, directory.parent)
        weights = {key: value.cpu() for key, value in result["weights"].items()}
        losses = [point["loss"] for point in result["points"]]
        torch.save((weights, losses), directory / f"{name}-{spec.place.rank}.pt")
    return Outcome(state="completed", started=started, finished=time.time())


def read_weights(connection: Connection, given: dict[str, Any]) -> None:
    """Add up weights where they lie, as vLLM's engine ``ipc`` opens them."""
    sums = {}
    uuid = str(torch.cuda.get_device_properties(0).uuid)
    opened = pickle.loads(base64.b64decode(given["ipc_handles_pickled"]))
    for name, handle in zip(given["names"], opened, strict=True):
        arguments = list(handle[uuid])
        arguments[6] = 0  # the device, by its number in this process
        sums[name] = float(rebuild_cuda_tensor(*arguments).double().sum())
    connection.send(sums)
    connection.recv()
