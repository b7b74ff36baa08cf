"""Made-up timings of trials, from which a study's duration is estimated."""

from __future__ import annotations

from typing import Any

from sweeper.analysis.timing import ArmTiming, StudyTiming, TrialTiming

STEPS = 10


def timing(step: float, **changes: Any) -> TrialTiming:
    """A trial of 1 s + 10 steps + 2 s."""
    return TrialTiming(
        start=1.0, step=step, steps=STEPS, scoring=2.0, trained_tokens=100, **changes
    )


def study_timing(
    workers: int = 1, gkd: float = 0.7, sft: float = 0.2, **changes: Any
) -> StudyTiming:
    """Trials of 5 and, from ``gkd``'s lightest to its heaviest, 5 to 10 s."""
    light, heavy = timing(sft), timing(gkd, parts={"rollout": 0.6 * gkd, "teacher": 0.2 * gkd})
    return StudyTiming(
        workers=workers,
        preparation={"data": 4.0, "teacher": 6.0, "student": 3.0},
        teacher_scoring=5.0,
        documents=100,
        arms=(
            ArmTiming(arm="gkd", method="gkd", lightest=light, heaviest=heavy),
            ArmTiming(arm="sft", method="sft", lightest=light, heaviest=light),
        ),
        **changes,
    )
