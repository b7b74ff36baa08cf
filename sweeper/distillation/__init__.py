"""One training: a student, its sequences and a method in; a trained student and its cost out.

Scores belong to ``evaluation``, a job's process and its phases to ``execution``; nothing here reads
a whole study. Start with ``train.distil`` and ``train.TrainingJob``.
"""

from sweeper.distillation.models.late_bitsandbytes import import_peft

# TRL and lm-eval would import it with bitsandbytes.
import_peft()
