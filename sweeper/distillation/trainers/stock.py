"""TRL's trainers, unchanged but for counting, for ``engine: trl``."""

from __future__ import annotations

from typing import Any

from trl import SFTTrainer

from sweeper.distillation.cost_meter import CostMeter
from sweeper.distillation.data.batches import IGNORED
from sweeper.distillation.trainers.base import MeteredTrainerMixin
from sweeper.distillation.trainers.trl_gkd import GKDTrainer


class StockSFTTrainer(MeteredTrainerMixin, SFTTrainer):  # type: ignore[misc]
    """TRL's ``SFTTrainer`` on text, unchanged but for counting."""

    def __init__(self, *, meter: CostMeter, **kwargs: Any) -> None:
        self.meter = meter
        super().__init__(**kwargs)


class StockGKDTrainer(MeteredTrainerMixin, GKDTrainer):  # type: ignore[misc]
    """TRL's ``GKDTrainer`` on chat messages, unchanged but for counting."""

    def __init__(self, *, meter: CostMeter, **kwargs: Any) -> None:
        self.meter = meter
        super().__init__(**kwargs)

    def generate_on_policy_outputs(self, model: Any, inputs: Any, generation_config: Any) -> Any:
        """Sample as the stock trainer does, and count."""
        with self.meter.timing("rollout"):
            result = GKDTrainer.generate_on_policy_outputs(model, inputs, generation_config)
        sampled = (result[2] != IGNORED).sum()
        if model is not self.teacher_model:
            self.meter.add("on_policy", 1)
            self.meter.add("rollouts", len(result[2]))
            self.meter.add("generated_tokens", sampled)
        # The reference that this rollout replaces has been counted as trained on.
        self.meter.add("trained_tokens", sampled - (inputs["labels"] != IGNORED).sum())
        return result
