"""Trials whose scores depend on lmbda strongly, on beta weakly and on temperature not at all."""

from __future__ import annotations

import math
import random
from typing import Any

from sweeper.config.base import Scalar
from sweeper.records.study_record import ArmRecord
from tests.support.example_study import arm, completed, trial

SEARCH: dict[str, Any] = {
    "lmbda": {"type": "float", "low": 0.0, "high": 1.0},
    "beta": {"type": "categorical", "choices": [0.5, 0.0, 0.1, 0.9, 1.0]},
    "temperature": {"type": "float", "low": 0.3, "high": 1.0},
    "max_new_tokens": {"type": "int", "low": 16, "high": 64, "step": 16},
    "learning_rate": {"type": "float", "low": 1.0e-6, "high": 1.0e-4, "log": True},
}


def known_score(params: dict[str, Any]) -> float:
    """The best lmbda is 0.7; learning rates above the range would be better still.

    The variance of lmbda's part is 0.0098, of the learning rate's 0.0012 and of beta's 0.0004.
    """
    score = 0.5 - 0.5 * abs(params["lmbda"] - 0.7) + 0.05 * (params["beta"] == 0)
    return float(score + 0.03 * 2 * (math.log10(params["learning_rate"]) + 5))


def known_arm(
    trials: int, *, seed: int = 0, sign: float = 1.0, search: dict[str, Any] | None = None
) -> ArmRecord:
    """Trials that were sampled at random, with noise of 0.015."""
    rng = random.Random(seed)
    found = []
    for number in range(trials):
        params: dict[str, Scalar] = {
            "lmbda": rng.random(),
            "beta": rng.choice(SEARCH["beta"]["choices"]),
            "temperature": rng.uniform(0.3, 1.0),
            "max_new_tokens": rng.choice([16, 32, 48, 64]),
            "learning_rate": 10 ** rng.uniform(-6, -4),
        }
        score = sign * (known_score(params) + rng.gauss(0, 0.015))
        found.append(trial(number, completed(score), **params))
    return arm("gkd", found, search=SEARCH if search is None else search)
