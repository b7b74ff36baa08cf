"""The made-up study with winners that were trained again and scored on a test suite."""

from __future__ import annotations

import random
from typing import Any

from sweeper.analysis.comparison import compare
from sweeper.config.confirm import CostMeasure
from sweeper.records import ConfirmationRun
from sweeper.records.study_record import (
    Confirmation,
    ConfirmationRunRecord,
    ConfirmationScores,
    ConfirmedWinner,
    Plan,
    StudyRecord,
)
from tests.support.example_study import CONFIG, completed, example_study

DOCUMENTS = 120
CHANCES = {"gkd": 0.76, "gkd-default": 0.68, "sft": 0.58, "seqkd": 0.57, "supervised_kd": 0.72}


def confirmed_study(
    study_seed: int = 7,
    *,
    name: str = "adder",
    seeds: int = 3,
    trials: int = 12,
    documents_hash: str = "d0c5" * 16,
    shift: float = 0.0,
    config: dict[str, Any] | None = None,
) -> StudyRecord:
    """``example_study`` with a verdict, at equal steps and at equal device-seconds.

    Args:
        study_seed: Of the study, and of what its winners answer.
        name: The study's.
        seeds: Of each winner.
        trials: Of each arm.
        documents_hash: See ``ConfirmationScores``.
        shift: What is added to every arm's chance of a right answer.
        config: What the study file has beside the example's.
    """
    record = example_study(trials)
    comparison = compare(record)
    difficulty = random.Random(0)
    easy = [difficulty.gauss(0, 0.12) for _ in range(DOCUMENTS)]

    def final(arm: str, at: CostMeasure = "steps") -> ConfirmedWinner:
        summary = comparison.arm(arm)
        assert summary.best is not None and summary.best_score is not None
        rng = random.Random(f"{study_seed} {arm} {at}")
        chance = CHANCES[arm] + shift + (0.02 if at == "device_seconds" else 0.0)
        scores = []
        for _ in range(seeds):
            skill = chance + rng.gauss(0, 0.02)
            scores.append(tuple(float(rng.random() < skill + ease) for ease in easy))
        return ConfirmedWinner(
            arm=arm,
            method=summary.method,
            trial=summary.best.number,
            at=at,
            max_steps=300 if at == "steps" else 700,
            seeds=tuple(range(seeds)),
            scores=tuple(scores),
            selection=tuple(round(chance + rng.gauss(0, 0.02), 4) for _ in range(seeds)),
            searched=summary.best_score.score,
            device_seconds=20.0 if at == "steps" else 45.0,
            trained_tokens=96_000.0,
        )

    arms = [final(arm) for arm in CHANCES] + [final("sft", "device_seconds")]
    scores = ConfirmationScores(
        suite="addition-test",
        higher_is_better=True,
        tasks=("addition",) * DOCUMENTS,
        shares=(1 / DOCUMENTS,) * DOCUMENTS,
        clusters=tuple(map(str, range(DOCUMENTS))),
        documents_hash=documents_hash,
        arms=tuple(arms),
        teacher=(1.0,) * (DOCUMENTS - 6) + (0.0,) * 6,
        starting_student=(1.0,) * 36 + (0.0,) * (DOCUMENTS - 36),
    )
    plan = Plan(suite_hash="7e57" * 16, declared=record.provenance.started, finals={}, current={})
    changes = {
        "study": name,
        "config": {
            **CONFIG,
            "study": name,
            "seed": study_seed,
            "confirm": {"seeds": seeds},
            "compare_at": ["steps", "device_seconds"],
            "margin": 0.03,
            **(config or {}),
        },
        "arms": tuple(
            arm.model_copy(update={"finals": _confirmation_runs(arm.name, seeds)})
            for arm in record.arms
        ),
        "test": Confirmation(plan=plan, scores=scores, teacher=completed(0.95)),
        "provenance": record.provenance.model_copy(
            update={"started": record.provenance.started + study_seed}
        ),
    }
    return record.model_copy(update=changes)


def _confirmation_runs(arm: str, seeds: int) -> tuple[ConfirmationRunRecord, ...]:
    return tuple(
        ConfirmationRunRecord(
            number=seed,
            final=ConfirmationRun(arm=arm, trial=0, seed=seed, at="steps", max_steps=300),
            state="completed",
            outcome=completed(0.7),
        )
        for seed in range(seeds)
    )
