"""TRL's ``DistillationTrainer``, unchanged but for counting, for ``engine: trl-distillation``.

Only a job that trains with it imports this module, because TRL imports bitsandbytes and vLLM for it
where they are installed, which no process that others are forked from may do.
"""

from __future__ import annotations

from typing import Any

from sweeper.distillation.cost_meter import CostMeter
from sweeper.distillation.models.late_bitsandbytes import import_bitsandbytes
from sweeper.distillation.trainers.base import MeteredTrainerMixin

import_bitsandbytes()  # before TRL does, which would let it load code from a hub
from trl import DistillationTrainer  # noqa: E402


class StockDistillationTrainer(MeteredTrainerMixin, DistillationTrainer):  # type: ignore[misc]
    """TRL's ``DistillationTrainer`` on the prompts' messages, unchanged but for counting."""

    def __init__(self, *, meter: CostMeter, **kwargs: Any) -> None:
        self.meter = meter
        super().__init__(**kwargs)

    def _generate(self, prompts: list[Any]) -> Any:
        """Sample an accumulation window as the stock trainer does, and count."""
        with self.meter.timing("rollout"):
            result = super()._generate(prompts)
        sampled = sum(len(tokens) for tokens in result[1])
        self.meter.add("on_policy", self.args.gradient_accumulation_steps)
        self.meter.add("rollouts", len(result[1]))
        self.meter.add("generated_tokens", sampled)
        self.meter.add("trained_tokens", sampled)
        ends = set(self.eos_token_ids)
        self.meter.add("truncated", sum(tokens[-1] not in ends for tokens in result[1]))
        return result
