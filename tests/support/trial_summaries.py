"""How trials of a small study ended, and why its arms stop."""

from __future__ import annotations

from typing import Any

from sweeper.config.study import StudyConfig
from sweeper.records import Cost, Failure, FailureKind, Outcome, Scores
from sweeper.study.budgets import TrialSummary, summarize
from sweeper.study.early_stopping import StoppingRule
from tests.support.tiny_studies import adder_study


def config(**changes: Any) -> StudyConfig:
    return StudyConfig.model_validate(adder_study(**changes))


def ended(
    seconds: float = 10.0,
    score: float | None = 0.5,
    *,
    stderr: float = 0.0,
    kind: FailureKind | None = None,
    started: float = 0.0,
    earlier: float = 0.0,
) -> TrialSummary:
    scores = None
    if score is not None:
        scores = Scores(
            suite="s", suite_hash="h", score=score, stderr=stderr, higher_is_better=True,
            tasks=(), seconds=0.0,
        )  # fmt: skip
    outcome = Outcome(
        state="failed" if kind else "completed" if scores else "pruned",
        failure=Failure(kind=kind, message="m") if kind else None,
        scores=scores,
        cost=Cost(device_seconds=seconds),
        earlier_seconds=earlier,
        started=started,
        finished=started + seconds,
    )
    return summarize(outcome)


def reason(study: StudyConfig, arm: str, outcomes: Any, **more: Any) -> str | None:
    rule = StoppingRule(
        study.arms, study.budget, study.compute.devices_per_trial, higher_is_better=True
    )
    return rule.reason(arm, outcomes, **more)
