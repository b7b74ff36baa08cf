"""A made-up study of two arms that have been searched: which trial won is known."""

from __future__ import annotations

from sweeper.records import Cost, Outcome, Scores
from sweeper.records.study_record import ArmRecord, Provenance, StudyRecord, TrialRecord


def trial(number: int, score: float | None, *, tokens: int = 100) -> TrialRecord:
    scores = None
    if score is not None:
        scores = Scores(
            suite="selection", suite_hash="h", score=score, stderr=0.1, higher_is_better=True,
            tasks=(), seconds=0.0,
        )  # fmt: skip
    outcome = Outcome(
        state="completed" if scores else "failed",
        scores=scores,
        cost=Cost(trained_tokens=tokens, seconds={"student": tokens / 10, "evaluation": 50.0}),
        started=0.0,
        finished=1.0,
    )
    return TrialRecord(
        number=number, state=outcome.state, params={"beta": number / 10},
        settings={"max_steps": 20}, outcome=outcome,
    )  # fmt: skip


def record(gkd: list[TrialRecord], sft: list[TrialRecord]) -> StudyRecord:
    arms = {"gkd": gkd, "sft": sft}
    return StudyRecord(
        study="tiny",
        config={},
        provenance=Provenance(
            command="", study_file="", started=0.0, git_revision=None, versions={}, hardware={}
        ),
        arms=tuple(
            ArmRecord(
                name=name, method=name, budget=3, settings={}, search={}, trials=tuple(trials)
            )  # type: ignore[arg-type]
            for name, trials in arms.items()
        ),
        teacher=None,
        starting_student=None,
        data=None,
    )


SEARCHED = record([trial(0, 0.3), trial(1, 0.5), trial(2, 0.5)], [trial(0, 0.4), trial(1, None)])
