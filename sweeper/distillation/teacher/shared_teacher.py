"""A teacher whose answers and hidden states trials share through the cache."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sweeper.config.models import ModelConfig
from sweeper.config.settings import MethodSettings
from sweeper.distillation.models.loading import identity, load_model
from sweeper.foundation.environment import library_versions
from sweeper.records import Resources, StudyInputs
from sweeper.records.seeds import teacher_seed

_TRIALS_TO_PAY = 4
"""Number of trials within which reading all sequences once must pay off."""


@dataclass(frozen=True)
class SharedTeacher:
    """A teacher of a study, and where it computes what trials share."""

    inputs: StudyInputs
    config: ModelConfig
    """The study's teacher, or an arm's own."""
    resources: Resources
    model: Any = None
    """The loaded teacher, where this process holds it already."""

    def load(self) -> Any:
        """Return the model that is there already, or load it from the study's seed."""
        assert self.config.server is None, "a served teacher has no weights here"
        if self.model is not None:
            return self.model
        seed = teacher_seed(self.inputs.seed)
        return load_model(self.config, self.resources.device, seed=seed)

    def determinants(self, *, sampled: bool = False) -> dict[str, Any]:
        """Return what decides a cached value of the teacher, apart from what the teacher reads.

        A ``sampled`` value depends on the study's seed in any case. What a served teacher answers
        is not computed by this process.
        """
        seeded = sampled or self.config.random_init
        here = {
            "device": self.resources.device.partition(":")[0],
            "threads": self.inputs.cache_threads,
        }
        return {
            "teacher": identity(self.config),
            "seed": self.inputs.seed if seeded else None,
            **(here if self.config.server is None else {}),
            "versions": library_versions(),
        }


def pays_to_store(settings: MethodSettings, sequences: int, processes: int) -> bool:
    """Return whether a few trials like this read so many sequences that all are worth storing.

    Args:
        settings: Settings of the trial.
        sequences: Number of sequences of the data.
        processes: Number of processes that train together.
    """
    window = settings.per_device_train_batch_size * settings.gradient_accumulation_steps
    reads = settings.max_steps * window * processes * (1 - settings.lmbda)
    return reads * _TRIALS_TO_PAY >= sequences
