"""TRL's trainers as they are, only counted: what ``engine: trl`` trains with."""

from __future__ import annotations

from typing import Any

from trl import SFTTrainer

from sweeper.distillation.cost_meter import CostMeter
from sweeper.distillation.data.batches import IGNORED
from sweeper.distillation.trainers.base import Metered
from sweeper.distillation.trainers.trl_gkd import GKDTrainer


class StockSFTTrainer(Metered, SFTTrainer):  # type: ignore[misc]
    """TRL's ``SFTTrainer`` as it is, on text; only counted."""

    def __init__(self, *, meter: CostMeter, **kwargs: Any) -> None:
        self.meter = meter
        super().__init__(**kwargs)


class StockGKDTrainer(Metered, GKDTrainer):  # type: ignore[misc]
    """TRL's ``GKDTrainer`` as it is, on chat messages; only counted."""

    def __init__(self, *, meter: CostMeter, **kwargs: Any) -> None:
        self.meter = meter
        super().__init__(**kwargs)

    def generate_on_policy_outputs(self, model: Any, inputs: Any, generation_config: Any) -> Any:
        """The stock rollout, counted."""
        with self.meter.timing("rollout"):
            result = GKDTrainer.generate_on_policy_outputs(model, inputs, generation_config)
        sampled = int((result[2] != IGNORED).sum())
        if model is not self.teacher_model:
            self.meter.add("on_policy", 1)
            self.meter.add("rollouts", len(result[2]))
            self.meter.add("generated_tokens", sampled)
        # The reference that this rollout replaces has been counted as trained on.
        self.meter.add("trained_tokens", sampled - int((inputs["labels"] != IGNORED).sum()))
        return result
