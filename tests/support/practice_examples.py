"""Made-up trials of which it is known what they teach."""

from __future__ import annotations

import math
import random
from typing import Any

from sweeper.config.base import Scalar
from sweeper.records import ConfirmationRun, Rollouts
from sweeper.records.study_record import ConfirmationRunRecord, CurvePoint, StudyRecord, TrialRecord
from tests.support.example_study import arm, completed, failed, study, trial


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


def searching() -> StudyRecord:
    """An arm that is best near lmbda 0.7 and a learning rate of 1e-3, whatever beta is but 1."""
    trials = []
    for n in range(24):
        lmbda, beta, rate = (n * 7 % 24) / 24 + 0.01, (0.0, 0.5, 1.0)[n % 3], 10 ** (-4 + n / 12)
        score = 0.9 - abs(lmbda - 0.7) - 0.3 * abs(math.log10(rate) + 3) - 0.2 * (beta == 1.0)
        size = 32 + 16 * (n % 3)
        trials.append(
            sampled(n, score, lmbda=lmbda, beta=beta, max_new_tokens=size, learning_rate=rate)
        )
    settings = {"seq_kd": False, "weight_decay": 0.01}
    made = arm("gkd", trials, search=SEARCH).model_copy(update={"settings": settings})
    return study([made])


def with_best_lmbda(best: float, *, higher_is_better: bool = True) -> StudyRecord:
    """Forty trials that differ in how far their ``lmbda`` is from the best one."""
    rng = random.Random(0)
    sign = 1 if higher_is_better else -1
    trials = []
    for n in range(40):
        lmbda = (n + 0.5) / 40
        score = 0.5 - sign * 0.3 * abs(lmbda - best) + rng.gauss(0, 0.005)
        trials.append(trial(n, completed(score, higher_is_better=higher_is_better), lmbda=lmbda))
    return study([arm("gkd", trials)], higher_is_better=higher_is_better)


def teaching() -> StudyRecord:
    """A study that has something to say in every section."""
    gkd = searching().arms[0]
    diverged = [trial(24 + n, failed("diverged", "NaN"), learning_rate=0.009 + n / 1e4, lmbda=0.5)
                for n in range(5)]  # fmt: skip
    cut = [sampled(30, 0.2, lmbda=1.0, truncated=0.9, length=32.0, max_new_tokens=32)]
    trials = (*gkd.trials, *diverged, *cut)
    finals = {"trials": trials, "finals": falling("gkd", 5, 0.05)}
    sft = arm("sft", [trial(n, completed(0.4 + n / 100, seconds=9)) for n in range(5)])
    return study([gkd.model_copy(update=finals), sft])
