"""Settings that a study recommends, as arms of a study file.

With a verdict, the arm is the best of those that no comparison on the test suite shows to be worse,
or one that was compared with it and not told apart; without a verdict, its best score is not
clearly behind the best of all. Of several such arms the cheapest is chosen.
Costs within ``SAME_COST`` of the lowest count as equal, and then the better score decides.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

from pydantic import Field
from scipy import stats

from sweeper.analysis.comparison import Comparison, Score, scored_trials
from sweeper.analysis.narrowing import narrowed, rounded
from sweeper.analysis.stats.significance import ALPHA
from sweeper.analysis.verdict_records import Verdict
from sweeper.config.settings import Method
from sweeper.records import Record
from sweeper.records.study_record import ArmRecord, StudyRecord

SAME_COST = 1.1
"""Multiple of the lowest device-seconds up to which costs count as equal."""

Basis = Literal["test", "selection"]
"""Suite that chose the arm."""


class Rival(Record):
    """Candidate arm."""

    arm: str
    score: float
    """Score on the suite that chose the arm."""
    device_seconds: float
    """Device-seconds of one training and its scoring."""
    timed: bool = Field(default=True, exclude_if=bool)
    """False if trainings shared a GPU, so that their seconds do not compare."""


class Recommendation(Record):
    """Recommended arm with its settings and the reasons."""

    arm: str
    method: Method
    trial: int
    basis: Basis
    chosen: Rival
    rivals: tuple[Rival, ...]
    """The other candidates: the best one, and those that the suite does not separate from it."""
    beaten: tuple[str, ...]
    """Arms that it is shown to be better than, on the test suite only."""
    best: Rival
    """Best score among ``chosen`` and ``rivals``."""
    several_objectives: bool
    """True if the search had objectives besides the score, which alone decided here."""
    settings: dict[str, Any]
    """Fixed settings of the arm, and the trial's sampled settings, rounded."""
    arms: dict[str, Any]
    """Arm as ``arms:`` of a study file has it, under a name new to the study."""
    narrowed: dict[str, Any] | None
    """Arm in the same form that searches where the best trials were; None with too few trials, or
    if nothing is searched."""


class _Candidate(NamedTuple):
    arm: ArmRecord
    trial: int
    rival: Rival


def recommend(
    record: StudyRecord, comparison: Comparison, verdict: Verdict | None
) -> Recommendation | None:
    """Recommend an arm and its settings; return None before anything was scored."""
    basis: Basis = "test"
    unbeaten, beaten, higher_is_better = _on_test(record, verdict)
    if not unbeaten:
        basis, higher_is_better = "selection", comparison.higher_is_better
        unbeaten, beaten = _on_selection(record, comparison), []
    if not unbeaten:
        return None
    sign = 1.0 if higher_is_better else -1.0
    lowest = min(one.rival.device_seconds for one in unbeaten)
    timed = all(one.rival.timed for one in unbeaten)
    cheap = [o for o in unbeaten if not timed or o.rival.device_seconds <= SAME_COST * lowest]
    chosen = max(cheap, key=lambda one: sign * one.rival.score)
    best = max(unbeaten, key=lambda one: sign * one.rival.score)
    trial = next(trial for trial in chosen.arm.trials if trial.number == chosen.trial)
    search = chosen.arm.search
    sampled = {name: rounded(value, search.get(name)) for name, value in trial.params.items()}
    settings = {**chosen.arm.settings, **sampled}
    return Recommendation(
        arm=chosen.arm.name,
        method=chosen.arm.method,
        trial=chosen.trial,
        basis=basis,
        chosen=chosen.rival,
        rivals=tuple(one.rival for one in unbeaten if one is not chosen),
        beaten=tuple((loser for winner, loser in beaten if winner == chosen.arm.name)),
        best=best.rival,
        several_objectives=len(comparison.objectives) > 1,
        settings=settings,
        arms={_free_name(record, "recommended"): _arm(chosen.arm, settings)},
        narrowed=_narrowed(record, chosen.arm),
    )


def _on_test(
    record: StudyRecord, verdict: Verdict | None
) -> tuple[list[_Candidate], list[tuple[str, str]], bool]:
    """Return the best winner and those not told apart from it, the pairs, and the direction."""
    if verdict is None:
        return [], [], True
    arms = {arm.name: arm for arm in record.arms}
    at_steps = [pair for pair in verdict.pairs if pair.at == "steps"]
    decided = [(p.arm, p.against) for p in at_steps if p.conclusion == "better"]
    decided += [(p.against, p.arm) for p in at_steps if p.conclusion == "worse"]
    beaten = [(winner, loser) for winner, loser in decided if {winner, loser} <= arms.keys()]
    pairs = [{p.arm, p.against} for p in at_steps if {p.arm, p.against} <= arms.keys()]
    compared = set().union(*pairs)
    losers = {loser for _, loser in beaten}
    unbeaten = [
        _Candidate(
            arms[one.arm],
            one.trial,
            Rival(
                arm=one.arm,
                score=one.test.mean,
                device_seconds=one.device_seconds,
                timed=one.sharing == 1,
            ),
        )
        for one in verdict.at("steps")
        if one.arm not in losers and (one.arm in compared or not pairs)
    ]
    worse_than_start = {loser for winner, loser in decided if winner == "start"}
    unbeaten = [one for one in unbeaten if one.arm.name not in worse_than_start] or unbeaten
    sign = 1.0 if verdict.higher_is_better else -1.0
    best = max(unbeaten, key=lambda one: sign * one.rival.score, default=None)
    if best is not None:
        # No pair was found apart in which neither lost.
        unbeaten = [o for o in unbeaten if o is best or {o.arm.name, best.arm.name} in pairs]
    return unbeaten, beaten, verdict.higher_is_better


def _on_selection(record: StudyRecord, comparison: Comparison) -> list[_Candidate]:
    """Return the arms whose best score is not clearly behind that of the leader."""
    if not comparison.leaders:
        return []
    leader = comparison.arm(comparison.leaders[0]).best_score
    assert leader is not None
    found = []
    for arm in record.arms:
        summary = comparison.arm(arm.name)
        if summary.best_score and summary.best and not _clearly_apart(leader, summary.best_score):
            outcome = summary.best.outcome
            rival = Rival(
                arm=arm.name,
                score=summary.best_score.score,
                device_seconds=outcome.cost.device_seconds if outcome else 0.0,
                timed=outcome is None or outcome.sharing == 1,
            )
            found.append(_Candidate(arm, summary.best.number, rival))
    return found


def _clearly_apart(leader: Score, other: Score) -> bool:
    """Return True if two independent scores differ; without errors any difference counts."""
    apart = abs(leader.score - other.score)
    if leader.stderr is None or other.stderr is None:
        return apart > 0
    stderr = math.hypot(leader.stderr, other.stderr)
    return apart > float(stats.norm.isf(ALPHA / 2)) * stderr


def _narrowed(record: StudyRecord, arm: ArmRecord) -> dict[str, Any] | None:
    sign = 1.0 if record.higher_is_better else -1.0
    ranked = sorted(scored_trials(arm), key=lambda pair: -sign * pair[1].score)
    search = narrowed(arm.search, ranked)
    if search is None:
        return None
    return {_free_name(record, "narrowed"): {**_arm(arm, arm.settings), "search": search}}


def _arm(arm: ArmRecord, settings: dict[str, Any]) -> dict[str, Any]:
    return {"method": arm.method, **({"settings": settings} if settings else {})}


def _free_name(record: StudyRecord, name: str) -> str:
    taken = {arm.name.casefold() for arm in record.arms}
    names: Sequence[str] = [name, *(f"{name}-{number}" for number in range(2, len(taken) + 3))]
    return next(free for free in names if free not in taken)
