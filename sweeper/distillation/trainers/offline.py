"""Trainer on fixed sequences."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from trl import SFTTrainer

from sweeper.distillation.cost_meter import CostMeter
from sweeper.distillation.distributed import ProcessGroup
from sweeper.distillation.sharding import ShardedStudent
from sweeper.distillation.trainers.base import FullBatchTrainerMixin, forget_rounded_weights


class OfflineTrainer(FullBatchTrainerMixin, SFTTrainer):  # type: ignore[misc]
    """TRL's ``SFTTrainer`` on sequences that are already token ids; its loss is cross-entropy."""

    def __init__(
        self,
        *,
        meter: CostMeter,
        processes: ProcessGroup,
        lengths: Sequence[int] | None,
        sharded_student: ShardedStudent | None,
        **kwargs: Any,
    ) -> None:
        self.meter = meter
        self.processes = processes
        self.lengths = lengths
        super().__init__(**kwargs)
        if sharded_student is not None:
            forget_rounded_weights(self)
