"""Where trials run, and what each takes of the machines there."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Annotated, Literal

from pydantic import Field, model_validator

from sweeper.config.base import Duration, Gibibytes, PositiveInt, Problems, Strict
from sweeper.config.started_server import StudentServer

ADDRESS = r"^(auto|local|(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+):[0-9]{1,5})$"
"""Pattern of a Ray cluster's address."""

SHARDED_OPTIMISERS = ("adamw_torch", "adamw_torch_fused", "sgd")
"""Optimisers whose states are divided with the weights; others may keep one for several weights."""


class ResourcesConfig(Strict):
    """What one trial takes of a machine."""

    cpu: PositiveInt | None = None
    """CPU cores: the trial's threads."""
    gpu: Annotated[float, Field(ge=0, le=1)] | None = None
    """The share of a GPU, at most 1 (`devices_per_trial` is for more). With 0.5, two trials share
    one, and each may take half of its memory; their device-seconds are not compared."""


class ComputeConfig(Strict):
    """Where trials run."""

    executor: Literal["local", "ray"] = "local"
    """`local`: processes on this machine; `ray`: tasks on the nodes of a Ray cluster."""
    address: Annotated[str, Field(pattern=ADDRESS)] | None = None
    """The Ray cluster: `auto`, the one that this machine belongs to (the default); `HOST:PORT`; or
    `local`, a new one of this machine alone, for as long as the study runs."""
    workers: PositiveInt | None = None
    """Trials at a time; cores and devices are divided among them. By default one on each GPU, or
    on each group of `devices_per_trial`; without GPUs one. With a share of a GPU
    (`resources_per_trial.gpu`) or with Ray as many as fit."""
    devices_per_trial: PositiveInt = 1
    """The devices that each trial trains on together, all of one machine: as many processes (on the
    CPU, too), each with `per_device_train_batch_size` sequences of a micro-batch of its own, and
    with a copy of the models if these are not divided."""
    shard_teacher: bool = False
    """Divide the teacher's layers among a trial's devices, instead of a copy on each: a layer is
    put together where it reads, which takes less memory and more time."""
    shard_student: bool = False
    """Divide the student, its gradients and its optimiser's states among a trial's devices (FSDP),
    instead of a copy on each; it is put together to sample and to be scored, among others."""
    resources_per_trial: ResourcesConfig = ResourcesConfig()
    """Resources of a machine that each trial takes."""
    pin_cores: bool = False
    """Keep each worker's process to cores of its own. (Linux; `local` only.)"""
    device: Annotated[str, Field(pattern=r"^(auto|cpu|cuda(:\d+)?|mps)$")] = "auto"
    """`auto`: the accelerators there are, in turn, or the CPU."""
    threads_per_worker: PositiveInt | None = None
    """CPU threads of a trial, shared by its processes. By default `resources_per_trial.cpu`;
    without it the cores divided by the workers, and with Ray one for each of a trial's devices."""
    trial_timeout: Duration | None = None
    """Longest time that a trial may take: seconds, or `90s`, `30m`, `12h`, `2d`. One that takes
    longer is ended."""
    stall_timeout: Duration | None = None
    """Longest time that a trial may go without a sign of progress: a point of its training curve,
    or a new phase. Evaluation is one phase."""
    memory_limit: Annotated[Gibibytes, Field(gt=0)] | None = None
    """The main memory that a trial may take, in GiB: one that needs more fails as out of memory,
    instead of bringing the machine to a halt. The processes of a trial on several devices may take
    an equal part of it each. (Linux; a GPU's memory is not meant.)"""
    teacher_states_gib: Gibibytes = 20.0
    """GiB that the teacher's hidden states on sequences that do not change, or a served teacher's
    judgement of them, may take in the cache; the least recently used go first. 0: they are
    computed, or asked for, again in every trial."""
    vllm: StudentServer = StudentServer()
    """The servers of `rollouts.engine: vllm` and `evaluation.engine: vllm`."""

    @model_validator(mode="after")
    def _check(self) -> ComputeConfig:
        problems = Problems()
        # A record holds every key, with its default where the study file did not set it.
        given = {name for name, value in self if value != type(self).model_fields[name].default}
        for location, message in self._misfits(given):
            problems.add(location, message)
        problems.raise_if_any()
        return self

    def _misfits(self, given: Collection[str]) -> Iterator[tuple[tuple[str, ...], str]]:
        """Yield what does not fit together, by the key to blame.

        Args:
            given: The keys that differ from their defaults.
        """
        executor, device, resources = self.executor, self.device, self.resources_per_trial
        gpu = resources.gpu
        if resources.cpu is not None and "threads_per_worker" in given:
            message = "expected one of threads_per_worker and resources_per_trial.cpu, found both"
            yield ("threads_per_worker",), message
        if gpu is not None and gpu > 0 and device == "cpu":
            yield ("resources_per_trial", "gpu"), f"expected 0 with device: cpu, found {gpu:g}"
        if gpu == 0 and device not in ("auto", "cpu"):
            message = f"expected a share of a GPU with device: {device}, found 0"
            yield ("resources_per_trial", "gpu"), message
        if (count := self.devices_per_trial) > 1:
            several = f"with devices_per_trial: {count}"
            if gpu is not None and 0 < gpu < 1:
                message = f"expected 1 {several}, found {gpu:g}: only one device can be shared"
                yield ("resources_per_trial", "gpu"), message
            if device not in ("auto", "cpu", "cuda"):
                yield ("device",), f"expected auto, cpu or cuda {several}, found {device!r}"
        else:
            for key in ("shard_teacher", "shard_student"):
                if key in given:
                    yield (key,), "has no effect with devices_per_trial: 1"
        if executor == "local" and "address" in given:
            yield ("address",), "has no effect with executor: local"
        if executor == "ray" and device not in ("auto", "cpu", "cuda"):
            message = f"expected auto, cpu or cuda with executor: ray, found {device!r}"
            yield ("device",), f"{message}: Ray chooses the GPU"
        if executor == "ray" and "pin_cores" in given:
            yield ("pin_cores",), "has no effect with executor: ray"
