"""What samples rollouts: each engine takes a student and prompts, and returns an answer to each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

from sweeper.config.base import ScoringDtype
from sweeper.config.rollouts import RolloutEngine
from sweeper.distillation.sampling.continuous import generate_continuously
from sweeper.distillation.sampling.rollouts import Rollout, generate
from sweeper.distillation.sampling.served import ServedEngine
from sweeper.records import Resources

Waiting = Callable[[str], AbstractContextManager[None]]
"""Counts the seconds of a block as a wait for the served model of a role."""


class Engine(Protocol):
    """Samples one answer to each prompt; ``rollouts.generate`` is one, and says what it takes."""

    def __call__(
        self,
        model: Any,
        prompts: Sequence[Sequence[int]],
        *,
        temperature: float,
        max_new_tokens: int,
        end_ids: Sequence[int],
        pad_id: int,
        seed: int,
        batch_size: int,
        numbers: Sequence[int] | None = None,
        report: Callable[[int], None] = lambda done: None,
    ) -> list[Rollout]:
        """Return the answers in the order of the prompts."""


def engine_of(
    name: RolloutEngine,
    resources: Resources,
    dtype: ScoringDtype | None,
    *,
    waiting: Waiting = lambda role: nullcontext(),
) -> Engine:
    """Return the engine of a job.

    Args:
        name: Engine of the study, ``StudyInputs.rollout_engine``.
        resources: Place of the job; ``vllm`` needs its ``served_student``.
        dtype: Precision that a server computes in: that of the study's scores.
        waiting: Where seconds count that a server takes.
    """
    if name == "vllm":
        return ServedEngine(resources, dtype, waiting)
    return generate_continuously if name == "transformers" else generate
