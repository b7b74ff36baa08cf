"""Made-up trials of which it is known what they teach."""

from __future__ import annotations

from typing import Any

from sweeper.config.base import Scalar
from sweeper.records import ConfirmationRun, Rollouts
from sweeper.records.study_record import ConfirmationRunRecord, CurvePoint, TrialRecord
from tests.support.example_study import completed, trial


def sampled(
    number: int,
    score: float,
    *,
    length: float = 40.0,
    truncated: float = 0.0,
    seconds: float = 20.0,
    higher_is_better: bool = True,
    **params: Scalar,
) -> TrialRecord:
    """A GKD trial that says what it sampled: as much as its ``lmbda``."""
    share = float(params.get("lmbda") or 0.5)
    found = completed(
        score,
        seconds=seconds,
        generated=int(64_000 * share),
        higher_is_better=higher_is_better,
    )
    cost = found.cost.model_copy(update={"seconds": {"rollout": 1.6 * length * share}})
    rollouts = Rollouts(on_policy_share=share, length=length, truncated_share=truncated)
    outcome = found.model_copy(update={"rollouts": rollouts, "cost": cost})
    return trial(number, outcome, **params)


def final(
    arm: str, seed: int, curve: list[tuple[int, float, float | None]], *, of: int = 0
) -> ConfirmationRunRecord:
    """A winner trained again: steps, losses, distances from the teacher."""
    points = [CurvePoint(step=s, loss=x, teacher_divergence=d) for s, x, d in curve]
    return ConfirmationRunRecord(
        number=seed,
        final=ConfirmationRun(arm=arm, trial=of, seed=seed, at="steps", max_steps=curve[-1][0]),
        state="completed",
        outcome=completed(0.5),
        curve=tuple(points),
    )


def falling(arm: str, seeds: int, last: float) -> tuple[ConfirmationRunRecord, ...]:
    """Winners whose distance from the teacher is ``last`` at the end, and 0.1 before it."""
    return tuple(
        final(arm, seed, [(20, 1.0, 0.2), (40, 0.8, 0.1), (60, 0.7, last + seed / 1000)])
        for seed in range(seeds)
    )


SEARCH: dict[str, Any] = {
    "lmbda": {"type": "float", "low": 0.0, "high": 1.0, "log": False, "step": None},
    "beta": {"type": "categorical", "choices": [0.0, 0.5, 1.0]},
    "max_new_tokens": {"type": "int", "low": 32, "high": 64, "log": False, "step": 16},
    "learning_rate": {"type": "float", "low": 1e-4, "high": 1e-2, "log": True, "step": None},
}
