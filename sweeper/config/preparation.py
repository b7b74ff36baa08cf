"""What is done once, before the study: the warm start, and the teacher's answers."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from sweeper.config.base import Fraction, JsonMapping, PositiveFloat, PositiveInt, Strict
from sweeper.config.settings import LearningRateSchedule


class WarmStartConfig(Strict):
    """Training that is done once, before the study: its result is where every arm starts."""

    method: Literal["sft", "seqkd"] = "sft"
    """`sft` on the references, or `seqkd` on the stored teacher outputs."""
    max_steps: PositiveInt
    """Optimiser steps."""
    learning_rate: PositiveFloat | None = None
    """Peak learning rate; by default the study's."""
    per_device_train_batch_size: PositiveInt | None = None
    """Sequences in one micro-batch; by default the study's."""
    lr_scheduler_type: LearningRateSchedule | None = None
    """Course of the learning rate after the warm-up; by default the study's."""
    lr_scheduler_kwargs: JsonMapping | None = None
    """Arguments of that schedule; by default the study's, or none next to another schedule."""
    warmup_ratio: Fraction | None = None
    """Share of the steps over which the learning rate rises; by default the study's."""
    extra: JsonMapping = {}
    """Further arguments of the trainer, over the study's."""

    def settings(self) -> dict[str, Any]:
        """Return the settings of the training, over the study's."""
        values = self.model_dump(exclude_none=True, exclude={"method"})
        if "lr_scheduler_type" in values:
            values.setdefault("lr_scheduler_kwargs", {})
        return values


class TeacherOutputsConfig(Strict):
    """How the teacher answers the prompts, once per study, for sequence-level distillation."""

    max_new_tokens: PositiveInt = 256
    """The longest answer in tokens."""
    temperature: Annotated[float, Field(ge=0)] = 0.0
    """0 decodes greedily; otherwise answers are sampled."""
    batch_size: PositiveInt = 32
    """Prompts answered at a time."""
