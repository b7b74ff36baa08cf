"""Checkpoints of a training, from which it resumes as if it had never stopped.

``<trial>/checkpoint/<step>`` holds what decides the remaining steps (weights, optimiser, schedule,
loss scale, random states) and the counts so far. The data order, the on-policy coin and the
rollouts follow from seeds and the step, and so need no state.

A checkpoint appears whole or not at all; only then the previous one is removed. Only the work that
it belongs to uses it, and only if every byte is as it was written.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch.distributed.tensor import DTensor
from transformers import TrainerCallback

from sweeper.config.models import ModelConfig
from sweeper.distillation import checkpoint_files as files
from sweeper.distillation.checkpoint_files import CheckpointManifest, UnusableCheckpointError
from sweeper.distillation.cost_meter import CostMeter
from sweeper.distillation.data.training_data import TrainingData
from sweeper.distillation.distributed import ALONE, ProcessGroup
from sweeper.distillation.models.loading import identity
from sweeper.distillation.sharding import collected, collected_states, divide_states, divided_like
from sweeper.foundation.cache import content_key
from sweeper.foundation.environment import library_versions
from sweeper.records import Progress, TrialSpec
from sweeper.records.layout import JobPaths


class Journal(Protocol):
    """Where a training reports its progress."""

    curve: list[Progress]
    """Points of the training curve so far."""

    def resume(self, curve: Sequence[Progress], step: int, max_steps: int, seconds: float) -> None:
        """Resume the training after ``step``, with the curve as it was reported up to there."""


def of_trial(
    spec: TrialSpec,
    data: TrainingData,
    teacher: ModelConfig,
    journal: Journal,
    processes: ProcessGroup = ALONE,
) -> Checkpoints | None:
    """Return the trial's checkpoints; None if it keeps none.

    The stock engine keeps none: what ``training.extra`` may ask of it can depend on random states
    that transformers does not restore.
    """
    every, inputs = spec.settings.checkpoint_every, spec.origin
    if every is None or spec.settings.engine != "sweeper":
        return None
    warm = inputs.warm_start
    asked = [teacher] if spec.method != "sft" else []
    asked += [inputs.teacher] if warm is not None and warm.method == "seqkd" else []
    on_cpu = spec.place.device == "cpu"
    work = {
        "origin": inputs.model_dump(
            mode="json",
            include={"seed", "warm_start", "teacher_outputs", "held_out", "cache_threads"},
        ),
        "training": inputs.training.model_dump(mode="json", exclude={"checkpoint_every"}),
        "student": identity(inputs.student),
        "adapter": inputs.student.lora.model_dump(mode="json") if inputs.student.lora else None,
        "teachers": [identity(model) for model in asked],
        "data": data.fingerprint,
        **data.text_key,
        "method": spec.method,
        "settings": spec.settings.model_dump(mode="json", exclude={"checkpoint_every"}),
        "lora": spec.lora,
        "seed": spec.seed,
        "device": spec.place.device.partition(":")[0],
        # The order of sums, so the last digits, depend on it.
        "threads": spec.place.threads if on_cpu else None,
        "processes": processes.size,
        "shard_teacher": spec.place.shard_teacher,
        "shard_student": spec.place.shard_student,
        "versions": library_versions(),
    }
    return Checkpoints(JobPaths(Path(spec.place.directory)), every, work, journal, processes)


class Checkpoints:
    """The checkpoints of one training.

    The first of several processes writes them, with what belongs to the others alone: random
    states, and losses that are not averaged yet. All resume from the one that the first finds.

    ``every`` counts the optimiser steps between two; another one follows the last step. ``work`` is
    JSON that determines the training: a checkpoint of other work is not used.
    """

    def __init__(
        self,
        paths: JobPaths,
        every: int,
        work: Mapping[str, Any],
        journal: Journal,
        processes: ProcessGroup = ALONE,
    ) -> None:
        self._root, self._processes = paths.checkpoint, processes
        self._every, self._work, self._journal = every, content_key(work), journal
        self._manifest: CheckpointManifest | None = None
        """Manifest of the checkpoint that this process resumes from."""
        self._before: dict[str, float] = {}
        """Counts of the meter before the first step of this process."""
        self._started = 0.0

    def train(self, trainer: Any, meter: CostMeter) -> None:
        """Train to the end, from the last usable checkpoint if there is one."""
        self._trainer, self._meter = trainer, meter
        directory, self._manifest = self._processes.of_first(
            self._find() if self._processes.first else (None, None)
        )
        trainer.checkpoints = self
        trainer.add_callback(_Callback(self._begin, self._every))
        # Sequences that were trained on must be skipped, whatever ``extra`` says.
        trainer.args.ignore_data_skip = False
        trainer.train(resume_from_checkpoint=None if directory is None else str(directory))

    def _begin(self) -> None:
        """Restore the counts, before the first step of this process."""
        trainer, meter, saved = self._trainer, self._meter, self._manifest
        self._before = dict(meter.totals)
        self._started = time.perf_counter()
        if saved is None:
            return
        meter.resume(saved.totals, saved.since, saved.step)
        # Transformers averages the loss over the steps since it was last logged.
        trainer._tr_loss += saved.losses_since[self._processes.rank]
        trainer._total_loss_scalar = saved.loss_before
        trainer._globalstep_last_logged = saved.logged
        trainer._initial_global_step = 0
        self._journal.resume(saved.curve, saved.step, saved.max_steps, saved.seconds)

    def save(self) -> None:
        """Write a checkpoint.

        If it cannot be written, to a full disk for example, the previous one stays and the training
        continues.
        """
        with self._meter.timing("checkpoint"):
            self._save(self._trainer.state.global_step)

    def _save(self, step: int) -> None:
        parts = self._processes.gather(self._own_part())
        # All processes take part in assembling what is divided.
        first, trainer = self._processes.first, self._trainer
        weights = {name: collected(part, first) for name, part in _weights(trainer.model).items()}
        optimiser = collected_states(trainer.optimizer.optimizer, first)
        try:
            if first:
                self._write(step, parts, weights, optimiser)
        # RuntimeError is what torch's writer raises.
        except (OSError, RuntimeError, SafetensorError) as error:
            print(
                f"The checkpoint after step {step} could not be written to {self._root}"
                f" ({files.first_line(error)}). Training continues.",
                flush=True,
            )

    def load_weights(self, directory: Path) -> None:
        """Load the weights of a usable checkpoint into the model."""
        theirs, ours = load_file(directory / files.WEIGHTS), _weights(self._trainer.model)
        with torch.no_grad():
            for name, tensor in ours.items():
                whole = theirs[name]
                tensor.copy_(divided_like(whole, tensor) if isinstance(tensor, DTensor) else whole)

    def load_optimiser(self, directory: Path) -> None:
        """Load the optimiser and the schedule of a usable checkpoint."""
        trainer = self._trainer
        # Only a part of a divided tensor is read into memory.
        divided = any(isinstance(part, DTensor) for part in trainer.model.parameters())
        states = files.read_tensors(directory / files.OPTIMISER, mmap=divided)
        divide_states(trainer.optimizer.optimizer, states)
        trainer.lr_scheduler.load_state_dict(files.read_tensors(directory / files.SCHEDULE))

    def _find(self) -> tuple[Path | None, CheckpointManifest | None]:
        """Return the last usable checkpoint, and remove all others."""
        manifest, usable = None, None
        names = os.listdir(self._root) if self._root.is_dir() else []
        steps = sorted((int(name) for name in names if name.isdigit()), reverse=True)
        for step in steps:
            if usable is None:
                try:
                    directory = self._root / str(step)
                    check = partial(self._check_contents, directory)
                    manifest = files.read_manifest(directory, self._work, check)
                    usable = directory
                except UnusableCheckpointError as error:
                    print(f"The checkpoint after step {step} is not used: {error}.", flush=True)
        self._remove_all_but(usable)
        if usable is not None:
            print(f"Training resumes from the checkpoint after step {usable.name}.", flush=True)
        elif steps:
            print("Training starts from the beginning.", flush=True)
        return usable, manifest

    def _check_contents(self, directory: Path, names: Sequence[str]) -> None:
        """Read once what transformers is going to read: there a failure would come too late.

        Raises:
            ValueError: The weights do not match the model's.
        """
        for name in names:
            if name.endswith((".pt", ".pth")):
                files.read_tensors(directory / name)
        theirs = load_file(directory / files.WEIGHTS)
        ours = _weights(self._trainer.model)
        if {n: (t.shape, t.dtype) for n, t in theirs.items()} != {
            n: (t.shape, t.dtype) for n, t in ours.items()
        }:
            raise ValueError("its weights do not match the model's")

    def _own_part(self) -> _Part | Exception:
        """Return what this process adds to a checkpoint, or why it cannot."""
        trainer = self._trainer
        try:
            with tempfile.TemporaryDirectory(dir=trainer.args.output_dir) as directory:
                trainer._save_rng_state(directory)
                states = {path.name: path.read_bytes() for path in Path(directory).iterdir()}
        except (OSError, RuntimeError) as error:
            return error
        return _Part(states, trainer._tr_loss.item())

    def _write(
        self,
        step: int,
        collected_parts: Sequence[_Part | Exception],
        weights: Mapping[str, torch.Tensor],
        optimiser: Mapping[str, Any],
    ) -> None:
        """Write the files under a temporary name, then move them into place."""
        trainer = self._trainer
        parts = []
        for part in collected_parts:
            if isinstance(part, Exception):
                raise part
            parts.append(part)
        with files.written_whole(self._root, step) as directory:
            save_file(dict(weights), directory / files.WEIGHTS)
            torch.save(optimiser, directory / files.OPTIMISER)
            torch.save(trainer.lr_scheduler.state_dict(), directory / files.SCHEDULE)
            trainer._save_scaler(str(directory))
            for part in parts:
                for name, content in part.random_states.items():
                    (directory / name).write_bytes(content)
            trainer.state.save_to_json(str(directory / files.STATE))
            manifest = self._describe(step, directory, [part.loss_since for part in parts])
            text = json.dumps(manifest.model_dump(), indent=1)
            (directory / files.MANIFEST).write_text(text, encoding="utf-8")
        self._remove_all_but(self._root / str(step))

    def _describe(self, step: int, directory: Path, losses: Sequence[float]) -> CheckpointManifest:
        """Build the manifest of the files in ``directory``."""
        trainer, meter, earlier = self._trainer, self._meter, self._manifest
        return CheckpointManifest(
            work=self._work,
            step=step,
            max_steps=trainer.state.max_steps,
            seconds=time.perf_counter() - self._started + (earlier.seconds if earlier else 0.0),
            totals={n: total - self._before.get(n, 0.0) for n, total in meter.totals.items()},
            since=dict(meter.since),
            losses_since=tuple(losses),
            loss_before=trainer._total_loss_scalar,
            logged=trainer._globalstep_last_logged,
            curve=tuple(self._journal.curve),
            files=files.hashes(directory),
        )

    def _remove_all_but(self, kept: Path | None) -> None:
        for path in self._root.iterdir() if self._root.is_dir() else ():
            if path != kept:
                shutil.rmtree(path, ignore_errors=True)


@dataclass(frozen=True)
class _Part:
    """Part of a checkpoint that belongs to one process."""

    random_states: dict[str, bytes]
    """Contents of the files of random states, by name."""
    loss_since: float


class _Callback(TrainerCallback):  # type: ignore[misc]
    """Link from transformers' training loop to a training's checkpoints."""

    def __init__(self, begin: Callable[[], None], every: int) -> None:
        self._begin, self._every = begin, every

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._begin()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        # The trainer saves after it has logged. A trial that ends here must not resume from here.
        last, due = state.global_step >= state.max_steps, state.global_step % self._every == 0
        control.should_save = last or (due and not control.should_training_stop)


def _weights(model: Any) -> dict[str, torch.Tensor]:
    """Return what training changes in place: trained parameters and persistent buffers."""
    stored = model.state_dict(keep_vars=True)
    trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
    trained |= {n: b for n, b in model.named_buffers() if n in stored}
    return {name: tensor.detach() for name, tensor in trained.items()}
