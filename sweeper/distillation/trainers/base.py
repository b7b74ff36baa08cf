"""Mixin of all trainers: counts, times and checkpoints."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from sweeper.distillation.checkpoints import Checkpoints
from sweeper.distillation.cost_meter import CostMeter
from sweeper.distillation.data.batches import IGNORED
from sweeper.distillation.distributed import ALONE, ProcessGroup


class MeteredTrainerMixin:
    """Mixin of a trainer that counts its tokens and its time, and keeps sweeper's checkpoints.

    Attributes:
        meter: Counter of tokens and seconds.
        processes: Processes that train together; counts are sums over all of them.
        checkpoints: Checkpoints that replace transformers' own, if the training keeps any.
    """

    meter: CostMeter
    processes: ProcessGroup = ALONE
    checkpoints: Checkpoints | None = None

    def _save_checkpoint(self, *args: Any, **kwargs: Any) -> None:
        assert self.checkpoints is not None
        self.checkpoints.save()

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        assert self.checkpoints is not None
        self.checkpoints.load_weights(Path(resume_from_checkpoint))

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is not None:
            assert self.checkpoints is not None
            self.checkpoints.load_optimiser(Path(checkpoint))

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: Any) -> Any:
        """Return the micro-batches of one accumulation window, and count them."""
        batches, items = super().get_batch_samples(epoch_iterator, num_batches, device)  # type: ignore[misc]
        self._count(batches)
        return batches, items

    def _count(
        self, batches: list[dict[str, Any]], rollouts: Mapping[str, float] | None = None
    ) -> None:
        """Add the micro-batches and their trained tokens, over all processes, to the meter."""
        labels = [batch["labels"] for batch in batches if "labels" in batch]
        counts = {
            "micro_batches": float(len(batches)),
            "trained_tokens": float(sum(int((each != IGNORED).sum()) for each in labels)),
            **(rollouts or {}),
        }
        for name, amount in self.processes.add_up(counts).items():
            self.meter.add(name, amount)

    def training_step(self, *args: Any, **kwargs: Any) -> Any:
        """Time the forward and backward pass of one micro-batch."""
        before = self._seconds_elsewhere()
        started = self.meter.now()
        loss = self._one_step(*args, **kwargs)
        elsewhere = self._seconds_elsewhere() - before
        self.meter.add("seconds_student", self.meter.now() - started - elsewhere)
        return loss

    def _defer_fsdp_gradient_reduction(self) -> AbstractContextManager[None]:
        # By default transformers keeps the gradients whole until the end of a window.
        return nullcontext()

    def _seconds_elsewhere(self) -> float:
        totals = self.meter.totals
        return totals["seconds_teacher"] + totals["seconds_rollout"]

    def _one_step(self, *args: Any, **kwargs: Any) -> Any:
        return super().training_step(*args, **kwargs)  # type: ignore[misc]
