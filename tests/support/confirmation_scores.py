"""Made-up scores of winners that were trained again, for a verdict on them."""

from __future__ import annotations

from typing import Any

import numpy as np

from sweeper.config.settings import Method
from sweeper.records.study_record import ConfirmationScores, ConfirmedWinner

SEEDS, DOCUMENTS = 5, 120


def winner(
    name: str, method: Method, chance: float, *, of: int, at: Any = "steps", seeds: int = SEEDS
) -> ConfirmedWinner:
    """An arm that answers each document rightly with ``chance``; ``of`` sets which."""
    rng = np.random.default_rng(of)
    easy = np.random.default_rng(0).normal(0, 0.15, DOCUMENTS)
    scores = rng.random((seeds, DOCUMENTS)) < np.clip(chance + easy, 0, 1)
    return ConfirmedWinner(
        arm=name,
        method=method,
        trial=3,
        at=at,
        max_steps=80 if at == "steps" else 200,
        seeds=tuple(range(seeds)),
        scores=tuple(tuple(map(float, row)) for row in scores),
        selection=(chance,) * seeds,
        searched=chance + 0.04,
        device_seconds=10.0,
        trained_tokens=1000.0,
    )


def scores(*arms: ConfirmedWinner, **changes: Any) -> ConfirmationScores:
    return ConfirmationScores(
        suite="test",
        higher_is_better=True,
        tasks=("task",) * DOCUMENTS,
        shares=(1 / DOCUMENTS,) * DOCUMENTS,
        clusters=tuple(map(str, range(DOCUMENTS))),
        arms=arms,
        teacher=(1.0,) * DOCUMENTS,
        starting_student=(0.0,) * DOCUMENTS,
    ).model_copy(update=changes)


GKD = winner("gkd", "gkd", 0.7, of=1)
SFT = winner("sft", "sft", 0.4, of=2)
