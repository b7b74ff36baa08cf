"""An arm to be searched, and outcomes to tell its search."""

from __future__ import annotations

from typing import Any

from sweeper.config.arms import ArmConfig
from sweeper.records import Outcome, Scores, TaskScore

SEARCH: dict[str, Any] = {
    "temperature": {"type": "float", "low": 0.25, "high": 1.0, "step": 0.25},
    "max_new_tokens": {"type": "int", "low": 8, "high": 32, "step": 8},
    "lmbda": {"type": "categorical", "choices": [0.0, 0.5, 1.0]},
    "beta": {"type": "categorical", "choices": [0.0, 0.5]},
    "learning_rate": {"type": "float", "low": 1e-4, "high": 1e-3, "log": True},
}


def arm(search: dict[str, Any] | None = None, method: str = "gkd", **fixed: Any) -> ArmConfig:
    return ArmConfig.model_validate({"method": method, "settings": fixed, "search": search or {}})


def completed(score: float, *, higher_is_better: bool = True) -> Outcome:
    task = TaskScore(
        task="t", metric="m", score=score, stderr=0.0, documents=1,
        higher_is_better=higher_is_better, weight=1.0,
    )  # fmt: skip
    scores = Scores(
        suite="s", suite_hash="h", score=score, stderr=0.0, higher_is_better=higher_is_better,
        tasks=(task,), seconds=0.0,
    )  # fmt: skip
    return Outcome(state="completed", scores=scores, started=0.0, finished=1.0)
