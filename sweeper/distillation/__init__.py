"""One training job: data, models, trainers, rollouts, teacher outputs."""

from sweeper.distillation.models.late_bitsandbytes import import_peft

# Before TRL and lm-eval do.
import_peft()
