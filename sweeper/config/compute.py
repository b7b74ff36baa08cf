"""What a trial takes of the machines that it runs on, and which of it an executor can give."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Annotated

from pydantic import Field

from sweeper.config.base import PositiveInt, Strict

ADDRESS = r"^(auto|local|(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+):[0-9]{1,5})$"
"""What a Ray cluster's address looks like."""


class ResourcesConfig(Strict):
    """What one trial takes of a machine."""

    cpu: PositiveInt | None = None
    """CPU cores: the trial's threads."""
    gpu: Annotated[float, Field(ge=0, le=1)] | None = None
    """The share of a GPU, at most 1: a trial trains on one device. With 0.5, two trials share one,
    and each may take half of its memory."""


def compute_problems(
    given: Collection[str], executor: str, device: str, resources: ResourcesConfig
) -> Iterator[tuple[tuple[str, ...], str]]:
    """What does not fit together, by the key to blame.

    Args:
        given: The keys of `compute` that differ from their defaults.
        executor: `local` or `ray`.
        device: As written.
        resources: What each trial takes.
    """
    gpu = resources.gpu
    if resources.cpu is not None and "threads_per_worker" in given:
        message = "expected one of threads_per_worker and resources_per_trial.cpu, found both"
        yield ("threads_per_worker",), message
    if gpu is not None and gpu > 0 and device == "cpu":
        yield ("resources_per_trial", "gpu"), f"expected 0 with device: cpu, found {gpu:g}"
    if gpu == 0 and device not in ("auto", "cpu"):
        message = f"expected a share of a GPU with device: {device}, found 0"
        yield ("resources_per_trial", "gpu"), message
    if executor == "local" and "address" in given:
        yield ("address",), "has no effect with executor: local"
    if executor == "ray" and device not in ("auto", "cpu", "cuda"):
        message = f"expected auto, cpu or cuda with executor: ray, found {device!r}"
        yield ("device",), f"{message}: Ray chooses the GPU"
    if executor == "ray" and "pin_cores" in given:
        yield ("pin_cores",), "has no effect with executor: ray"
