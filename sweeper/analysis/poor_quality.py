"""Whether GKD taught the student too little to measure, and what has not been tried against it.

"Too little" means: the best GKD trial's score is not above the starting student's by more than
chance gives it (two-sided, 5 %, the two scores taken as independent). The trial was chosen by that
score, which makes it look better than it is: so where it says too little, it is.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

from scipy import stats

from sweeper.analysis.advice import Advice
from sweeper.analysis.comparison import Comparison
from sweeper.analysis.stats.significance import ALPHA
from sweeper.records import Record
from sweeper.records.study_record import TrialRecord, number_of

Untried = Literal["more_on_policy", "temperature", "longer_training", "better_teacher"]
"""Those of ``advice``'s topics that are about poor quality."""
ON_POLICY = (0.6, 0.8)
TEMPERATURE = (0.7, 0.9)


class PoorQuality(Record):
    """A best GKD trial that is not measurably better than the student that it started from."""

    arm: str
    trial: int
    score: float
    start: float
    standard_errors: float | None
    """By how many of the difference it is better; None if they are not known."""
    untried: tuple[Untried, ...]
    """What is often advised and was not done in this trial, nor contradicted by the others."""


def poor_quality(comparison: Comparison, found: Sequence[Advice]) -> PoorQuality | None:
    """What to say of GKD's quality; None if it is measurable, or cannot be known.

    Args:
        comparison: The study's arms on the selection suite.
        found: What its trials say of common advice.
    """
    start = comparison.starting_student
    arm = comparison.arm(comparison.best_gkd) if comparison.best_gkd else None
    if arm is None or arm.best is None or arm.best_score is None or start is None:
        return None
    sign = 1.0 if comparison.higher_is_better else -1.0
    lead = sign * (arm.best_score.score - start.score)
    stderr = math.hypot(arm.best_score.stderr or 0.0, start.stderr or 0.0)
    errors = lead / stderr if stderr > 0 else None
    if not math.isfinite(lead) or lead > stats.norm.isf(ALPHA / 2) * stderr:
        return None
    judgements = {one.topic: one.judgement for one in found}
    untried = [t for t in _not_done(arm.best) if judgements.get(t) != "contradicted"]
    if judgements.get("better_teacher") != "confirmed":
        untried.append("better_teacher")
    return PoorQuality(
        arm=arm.name,
        trial=arm.best.number,
        score=arm.best_score.score,
        start=start.score,
        standard_errors=errors,
        untried=tuple(untried),
    )


def _not_done(trial: TrialRecord) -> list[Untried]:
    found: list[Untried] = []
    lmbda, temperature = number_of(trial, "lmbda"), number_of(trial, "temperature")
    if lmbda is None or lmbda < ON_POLICY[0]:
        found.append("more_on_policy")
    if lmbda != 0 and not (temperature and TEMPERATURE[0] <= temperature <= TEMPERATURE[1]):
        found.append("temperature")
    return [*found, "longer_training"]
