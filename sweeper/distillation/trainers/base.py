"""Mixin of all trainers: counts, times and checkpoints."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from sweeper.distillation.checkpoints import Checkpoints
from sweeper.distillation.cost_meter import CostMeter
from sweeper.distillation.data.batches import IGNORED


class MeteredTrainerMixin:
    """Mixin of a trainer that counts its tokens and its time, and keeps sweeper's checkpoints.

    Attributes:
        meter: Counter of tokens and seconds.
        checkpoints: Checkpoints that replace transformers' own, if the training keeps any.
    """

    meter: CostMeter
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
        self.meter.add("micro_batches", len(batches))
        for batch in batches:
            if "labels" in batch:
                self.meter.add("trained_tokens", (batch["labels"] != IGNORED).sum())
        return batches, items

    def training_step(self, *args: Any, **kwargs: Any) -> Any:
        """Time the forward and backward pass of one micro-batch, without its teacher's part."""
        with self.meter.timing("student"):
            return super().training_step(*args, **kwargs)  # type: ignore[misc]

    def _defer_fsdp_gradient_reduction(self) -> AbstractContextManager[None]:
        # By default transformers keeps the gradients whole until the end of a window.
        return nullcontext()
