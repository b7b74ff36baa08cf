"""How far the log-probabilities of an engine of rollouts may be from the training's.

Both compute the same distribution of the same weights, each with its own rounding. What is more
than rounding is an error: weights that did not arrive, a precision or a setting that differs.
"""

from __future__ import annotations

from collections.abc import Mapping

from sweeper.config.rollouts import RolloutEngine
from sweeper.config.settings import MethodSettings
from sweeper.records.specs import StudyInputs

EXACT_LIMIT = 1e-3
"""Nats a token where all is computed in float32: between kernels it is 1e-7 to 1e-4."""
ROUNDED_LIMIT = 0.05
"""Nats a token where some is computed in 16 bits: of vLLM and a trainer in bfloat16 about 0.01, and
several times as much where something drifts (https://github.com/vllm-project/vime/issues/64)."""


def logprob_diff_limit(
    origin: StudyInputs, settings: MethodSettings, engine: RolloutEngine
) -> float:
    """Return the mean absolute difference in nats a token above which there is a warning."""
    student = origin.student.before_training()
    rounded = (
        settings.bf16
        or settings.fp16
        or student.quantization is not None
        or student.dtype != "float32"
        # Its server computes as scores are computed.
        or (engine == "vllm" and origin.evaluation.dtype != "float32")
    )
    return ROUNDED_LIMIT if rounded else EXACT_LIMIT


def logprob_diff_warning(step: int, point: Mapping[str, float], limit: float) -> str | None:
    """Return the warning about a point of the training curve; None if all is well."""
    mean = point.get("rollout_logprob_diff")
    if mean is None or mean <= limit:
        return None
    return (
        f"at step {step} the log-probabilities of rollouts in their engine and in the training"
        f" differ by {mean:.2g} nats a token on average, more than {limit:g}: the rollouts are not"
        " the student's own. Try rollouts.engine: sweeper"
    )
