"""Choice of the student of a study to use."""

from __future__ import annotations

from sweeper.analysis.comparison import Comparison, compare
from sweeper.analysis.verdict import verdict_of
from sweeper.analysis.verdict_records import Verdict
from sweeper.config.settings import Method
from sweeper.foundation.errors import ConfigError, Problem
from sweeper.records import Record
from sweeper.records.study_record import ArmRecord, ConfirmationRunRecord, StudyRecord, TrialRecord


class Winner(Record):
    """Trial of an arm, and why it is chosen."""

    arm: str
    method: Method
    trial: TrialRecord
    final: ConfirmationRunRecord | None
    """Confirmation run with the first new seed, if there is one: no seed is chosen by its score."""
    why: str
    """Reason in words, after "chosen ": ``by its selection score``."""


def choose(record: StudyRecord, arm: str | None = None) -> Winner:
    """Choose the study's winner, or that of one of its arms.

    The best GKD arm wins, unless the verdict shows another arm to be better. In a study without
    GKD it is the arm with the best selection score. ``arm`` is taken whatever its scores.

    Raises:
        ConfigError: There is no such arm, or it has no trial with a score.
    """
    comparison = compare(record)
    verdict = verdict_of(record, comparison.best_gkd)
    name, why = (arm, "by name") if arm is not None else _best_arm(comparison, verdict)
    found = next((known for known in record.arms if known.name == name), None)
    if found is None:
        names = ", ".join(known.name for known in record.arms)
        raise _nothing(f"expected one of {names}, found {name!r}")
    trial = _trial(found, comparison, verdict)
    if trial is None:
        raise _nothing(f"the arm {name} has no trial with a score yet")
    again = [
        final
        for final in found.finals
        if (final.final.trial, final.final.at, final.state) == (trial.number, "steps", "completed")
    ]
    first = min(again, key=lambda final: final.final.seed, default=None)
    return Winner(arm=name, method=found.method, trial=trial, final=first, why=why)


def _best_arm(comparison: Comparison, verdict: Verdict | None) -> tuple[str, str]:
    best = comparison.best_gkd
    if best is None:
        if not comparison.leaders:
            raise _nothing("the study has no trial with a score yet")
        return comparison.leaders[0], "by its selection score"
    trained = [arm.name for arm in comparison.arms]
    if verdict is None:
        return best, "by its selection score among the GKD arms"
    pairs = [pair for pair in verdict.pairs if pair.at == "steps"]
    ahead = {
        other: abs(pair.difference)
        for pair in pairs
        for other, name, shown in (
            (pair.against, pair.arm, "worse"),
            (pair.arm, pair.against, "better"),
        )
        if name == best and pair.conclusion == shown and other in trained
    }
    if ahead:
        return max(ahead, key=lambda name: ahead[name]), f"by the verdict: {best} is worse"
    return best, "by its selection score among the GKD arms; no arm is shown to be better"


def _trial(arm: ArmRecord, comparison: Comparison, verdict: Verdict | None) -> TrialRecord | None:
    """Return the arm's best trial: of several retrained ones the best with new seeds."""
    for judged in verdict.arms if verdict else ():
        if judged.arm == arm.name and judged.at == "steps":
            return next(trial for trial in arm.trials if trial.number == judged.trial)
    return comparison.arm(arm.name).best


def _nothing(message: str) -> ConfigError:
    return ConfigError([Problem(source="--arm", message=message)])
