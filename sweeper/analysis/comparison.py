"""Comparison of each arm's best trial with the offline arms, the teacher and the start.

The scores come from the selection suite, the one that chose the trials;
``SELECTION_NOTE`` explains what that means and belongs next to every use of them.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

from pydantic import Field

from sweeper.analysis.failures import failure_kind
from sweeper.analysis.pareto import FrontPoint, pareto_front
from sweeper.config.search import Objective
from sweeper.config.settings import OFFLINE_METHODS, Method
from sweeper.records import (
    SCHEMA_VERSION,
    Cost,
    EnqueuedSettings,
    FailureKind,
    Outcome,
    Record,
)
from sweeper.records.study_record import ArmRecord, StudyRecord, TeacherGap, TrialRecord

SELECTION_NOTE = (
    "Each arm's score is the best of its trials on the suite that chose it, so it is optimistic,"
    " and more so the more trials the arm had."
)
"""Caveat on these scores, for every reader."""

UNCONFIRMED_NOTE = "No score here is from a suite that the search did not see."
CONFIRMED_NOTE = (
    "The verdict is about other seeds, and about documents that the search did not see."
)
"""Sentences that follow it, without and with a verdict."""

UNPAIRED_NOTE = (
    "The standard error of a difference treats the two scores as independent (an unpaired"
    " approximation)."
)
"""Limit of ``Difference.stderr``."""


class Score(Record):
    """Score of a model on the selection suite."""

    score: float
    stderr: float | None
    """Standard error over documents; None when the suite gives none."""


class SeriesPoint(Record):
    """One scored trial in the course of an arm's search."""

    number: int
    score: float
    best: float
    """Best score up to and including this trial."""


class TrialCounts(Record):
    """Numbers of an arm's trials by state."""

    completed: int = 0
    pruned: int = 0
    failed: int = 0
    running: int = 0
    waiting: int = 0


class Difference(Record):
    """An arm's best score minus that of the best offline arm."""

    reference: str
    """Name of the best offline arm."""
    value: float
    """Difference in the suite's units: negative is better where lower is better."""
    stderr: float | None
    """Unpaired approximation: the root of the sum of both squared standard errors."""
    lead: float
    """``value`` with its sign turned where lower is better: positive is better."""
    standard_errors: float | None
    """``lead`` in units of ``stderr``."""


class ArmSummary(Record):
    """Summary of one arm."""

    name: str
    method: Method
    budget: int
    device_hours: float | None
    """Limit on the device time of its trials; None without a limit."""
    stopped: Literal["device_hours", "wall_time", "patience"] | None
    """Limit that ended it before it had all its trials."""
    searched: tuple[str, ...]
    """Names of the settings that the arm searches."""
    trials: TrialCounts
    failures: dict[FailureKind, int]
    best: TrialRecord | None
    """Completed trial with the best selection score; of equal ones the first."""
    best_score: Score | None
    difference: Difference | None
    """Difference to the best offline arm; None for that arm itself."""
    gap_closed: float | None
    """Share of the gap from the starting student to the teacher; above 1: past the teacher."""
    cost: Cost
    """Total cost of the arm's trials, failed and pruned ones included."""
    series: tuple[SeriesPoint, ...]
    """Scored trials in ascending number."""
    enqueued: dict[int, EnqueuedSettings] = {}
    """Settings that trials were given, by number: what the search started with."""
    front: tuple[FrontPoint, ...] = ()
    """Pareto front of the trials, when the study has several objectives."""
    lead: TeacherGap | None = Field(None, serialization_alias="teacher_lead")
    """Gap of the arm's own teacher over the starting student; None if it has the study's."""


class Comparison(Record):
    """Comparison of a study's arms on the selection suite."""

    schema_version: int = SCHEMA_VERSION
    study: str
    suite: str | None
    """Name of the selection suite, once something was scored."""
    higher_is_better: bool
    objectives: tuple[Objective, ...] = ("score",)
    """Objectives of the search; ``best`` is by the score alone."""
    arms: tuple[ArmSummary, ...]
    teacher: Score | None
    starting_student: Score | None
    lead: TeacherGap | None = Field(None, serialization_alias="teacher_lead")
    """Gap of the teacher over the starting student, document by document."""
    leaders: tuple[str, ...]
    """Name of the arm with the best score, or all arms that share it."""
    best_offline: str | None
    best_gkd: str | None
    unequal_budgets: bool
    """True if arms with something to search had different budgets."""
    several_suites: bool
    """True if the scores come from several versions of the suite, and so do not compare."""
    confirmed: bool = False
    """True if winners were scored on a suite that the search did not see."""
    preparation_cost: Cost
    """Cost of the teacher and the starting student; shared, and in no arm's cost."""

    def arm(self, name: str) -> ArmSummary:
        """Return the arm called ``name``."""
        return next(arm for arm in self.arms if arm.name == name)


def selection_note(comparison: Comparison) -> str:
    """Return the caveat on the search's scores, with or without a verdict."""
    return f"{SELECTION_NOTE} {CONFIRMED_NOTE if comparison.confirmed else UNCONFIRMED_NOTE}"


def selection_score(outcome: Outcome | None) -> Score | None:
    """Return the score of a job that completed with a finite one, else None."""
    scores = outcome.scores if outcome and outcome.state == "completed" else None
    if scores is None or not math.isfinite(scores.score):
        return None
    return Score(score=scores.score, stderr=scores.stderr if math.isfinite(scores.stderr) else None)


def scored_trials(arm: ArmRecord) -> list[tuple[TrialRecord, Score]]:
    """Return the arm's trials with a score, in ascending number, each with its score."""
    return [
        (trial, score)
        for trial in sorted(arm.trials, key=lambda trial: trial.number)
        if trial.state == "completed" and (score := selection_score(trial.outcome)) is not None
    ]


def compare(record: StudyRecord) -> Comparison:
    """Summarize each arm and compare it with the best offline arm, the teacher and the start.

    A study may be at any stage: not begun, running, or ended with failures in every arm.
    """
    teacher, student = selection_score(record.teacher), selection_score(record.starting_student)
    sign = 1.0 if record.higher_is_better else -1.0
    objectives = tuple(record.config.get("objectives", ("score",)))
    arms = [_summarise(arm, sign, teacher, student, objectives) for arm in record.arms]
    best_offline = _best_arm((arm for arm in arms if arm.method in OFFLINE_METHODS), sign)
    best_gkd = _best_arm((arm for arm in arms if arm.method == "gkd"), sign)
    best = _best_arm(arms, sign)
    # An arm with nothing to search needs only one trial: it has no disadvantage.
    budgets = {(arm.budget, arm.device_hours) for arm in arms if arm.searched or arm.budget > 1}
    outcomes = [trial.outcome for arm in record.arms for trial in arm.trials]
    outcomes += [record.teacher, record.starting_student]
    suites = [outcome.scores for outcome in outcomes if outcome and outcome.scores]
    return Comparison(
        study=record.study,
        suite=suites[0].suite if suites else None,
        higher_is_better=record.higher_is_better,
        objectives=objectives,
        arms=tuple(
            arm.model_copy(update={"difference": _difference(arm, best_offline, sign)})
            for arm in arms
        ),
        teacher=teacher,
        starting_student=student,
        lead=record.lead,
        leaders=tuple(
            arm.name
            for arm in arms
            if best and best.best_score and arm.best_score
            if arm.best_score.score == best.best_score.score
        ),
        best_offline=best_offline.name if best_offline else None,
        best_gkd=best_gkd.name if best_gkd else None,
        unequal_budgets=len(budgets) > 1,
        several_suites=len({scores.suite_hash for scores in suites}) > 1,
        confirmed=record.test is not None and record.test.scores is not None,
        preparation_cost=total_cost([record.teacher, record.answers, record.starting_student]),
    )


def total_cost(outcomes: Iterable[Outcome | None]) -> Cost:
    """Sum the costs of some jobs; jobs that have not ended count as nothing."""
    outcomes = list(outcomes)
    costs = [outcome.cost for outcome in outcomes if outcome is not None]
    return Cost(
        steps=sum(cost.steps for cost in costs),
        trained_tokens=sum(cost.trained_tokens for cost in costs),
        generated_tokens=sum(cost.generated_tokens for cost in costs),
        device_seconds=sum(o.cost.device_seconds + o.earlier_seconds for o in outcomes if o),
        seconds=_summed(cost.seconds for cost in costs),
        served=_summed(cost.served for cost in costs),
        servers=_summed(cost.servers for cost in costs),
    )


def _summed(groups: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """Add up values of the same name."""
    sums: dict[str, float] = {}
    for group in groups:
        for name, value in group.items():
            sums[name] = sums.get(name, 0) + value
    return sums


def as_json(comparison: Comparison) -> dict[str, Any]:
    """Return the comparison as plain JSON values without NaN, for scripts."""
    plain = comparison.model_dump(mode="json", by_alias=True, exclude={"confirmed"})
    plain["arms"] = {arm.name: _arm_as_json(arm) for arm in comparison.arms}
    plain["preparation_cost"] = _cost_as_json(comparison.preparation_cost)
    return plain | {"notes": [selection_note(comparison), UNPAIRED_NOTE]}


def _summarise(
    arm: ArmRecord,
    sign: float,
    teacher: Score | None,
    student: Score | None,
    objectives: Sequence[Objective],
) -> ArmSummary:
    best: TrialRecord | None = None
    best_score: Score | None = None
    series = []
    scored = scored_trials(arm)
    for trial, score in scored:
        # Strictly better: of equal trials the first stays.
        if best_score is None or sign * score.score > sign * best_score.score:
            best, best_score = trial, score
        series.append(SeriesPoint(number=trial.number, score=score.score, best=best_score.score))
    return ArmSummary(
        name=arm.name,
        method=arm.method,
        budget=arm.budget,
        device_hours=arm.device_hours,
        stopped=arm.stopped,
        searched=tuple(arm.search),
        trials=TrialCounts(**Counter[str](trial.state for trial in arm.trials)),
        failures=Counter(kind for trial in arm.trials if (kind := failure_kind(trial))),
        best=best,
        best_score=best_score,
        difference=None,
        gap_closed=_gap_closed(best_score, teacher, student, sign),
        cost=total_cost(trial.outcome for trial in arm.trials),
        series=tuple(series),
        enqueued={trial.number: trial.enqueued for trial in arm.trials if trial.enqueued},
        front=pareto_front(
            [(trial, score.score) for trial, score in scored], objectives, higher_is_better=sign > 0
        )
        if len(objectives) > 1
        else (),
        lead=arm.lead,
    )


def _best_arm(arms: Iterable[ArmSummary], sign: float) -> ArmSummary | None:
    scored = [(sign * arm.best_score.score, arm) for arm in arms if arm.best_score]
    return max(scored, key=lambda pair: pair[0])[1] if scored else None


def _difference(arm: ArmSummary, reference: ArmSummary | None, sign: float) -> Difference | None:
    if reference is None or reference.name == arm.name:
        return None
    ours, theirs = arm.best_score, reference.best_score
    if ours is None or theirs is None:
        return None
    value = ours.score - theirs.score
    stderr = None
    if ours.stderr is not None and theirs.stderr is not None:
        stderr = math.hypot(ours.stderr, theirs.stderr)
    return Difference(
        reference=reference.name,
        value=value,
        stderr=stderr,
        lead=sign * value,
        standard_errors=sign * value / stderr if stderr else None,
    )


def _gap_closed(
    score: Score | None, teacher: Score | None, student: Score | None, sign: float
) -> float | None:
    if score is None or teacher is None or student is None:
        return None
    gap = sign * (teacher.score - student.score)
    # Without a teacher that is better than the start there is no gap to close.
    return sign * (score.score - student.score) / gap if gap > 0 else None


def _arm_as_json(arm: ArmSummary) -> dict[str, Any]:
    best = None
    if arm.best is not None and arm.best.outcome is not None:
        best = {
            "number": arm.best.number,
            "params": _finite(arm.best.params),
            "selection": arm.best_score and arm.best_score.model_dump(),
            "cost": _cost_as_json(arm.best.outcome.cost),
        }
    return {
        **arm.model_dump(include={"method", "budget", "device_hours", "stopped", "trials"}),
        "best": best,
        "failures": dict(arm.failures),
        "start_with": {
            str(number): _finite(enqueued.model_dump()) for number, enqueued in arm.enqueued.items()
        },
        "pareto_front": [
            {
                "number": point.trial.number,
                "params": _finite(point.trial.params),
                "values": _finite(point.values),
            }
            for point in arm.front
        ],
        "searched": list(arm.searched),
        "teacher_lead": arm.lead and _finite(arm.lead.model_dump()),
        "total_cost": _cost_as_json(arm.cost),
        "gap_closed": _finite(arm.gap_closed),
        "difference_to_best_offline": arm.difference and _finite(arm.difference.model_dump()),
    }


def _cost_as_json(cost: Cost) -> Any:
    return _finite(cost.model_dump(exclude={"seconds"}))


def _finite(value: Any) -> Any:
    """Return ``value`` with None for each number that JSON cannot hold."""
    if isinstance(value, dict):
        return {name: _finite(part) for name, part in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value
