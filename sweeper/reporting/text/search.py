"""Sentences about a search: how to read its scores, what is missing, why trials failed."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from sweeper.analysis.comparison import UNPAIRED_NOTE, ArmSummary, Comparison, selection_note
from sweeper.config.confirm import ConfirmConfig
from sweeper.records import Failure
from sweeper.records.study_record import StudyRecord
from sweeper.reporting.text import formatting
from sweeper.reporting.text.server_costs import shares_note
from sweeper.reporting.text.teacher_gap import teacher_gap_warnings
from sweeper.reporting.text.terminal_escape import visible

_STOPPED = {
    "patience": "their best score had not improved by more than its standard error",
    "device_hours": "another trial would have exceeded their device-hours",
    "wall_time": "another trial would have exceeded the study's wall time",
}
"""Reasons why arms stopped before their last trial."""


def notes(comparison: Comparison) -> list[str]:
    """Return what a reader needs in order to read the scores, the most important first."""
    unfinished = _unfinished(comparison)
    budgets = ", ".join(map(_budget, comparison.arms))
    sentences = [
        (
            comparison.several_suites,
            "Scores come from different versions of the selection suite; do not compare them.",
        ),
        (unfinished, unfinished),
        *((True, sentence) for sentence in _stopped(comparison)),
        *((True, sentence) for sentence in _started_with(comparison)),
        (
            any(arm.trials.pruned for arm in comparison.arms),
            "Pruned trials stopped at a score on part of the suite; none counts as an arm's best.",
        ),
        (
            comparison.unequal_budgets,
            f"Trial budgets differ ({budgets}); arms with more trials have an advantage.",
        ),
        (
            not comparison.higher_is_better,
            "Lower scores are better: a negative difference is a lead.",
        ),
        (servers := shares_note(comparison), servers),
        (comparison.leaders, selection_note(comparison)),
        (any(arm.difference for arm in comparison.arms), UNPAIRED_NOTE),
        *((True, warning) for warning in teacher_gap_warnings(comparison)),
    ]
    return [sentence for applies, sentence in sentences if applies]


def unconfirmed(record: StudyRecord) -> str:
    """Return what a study lacks for a verdict, and how to get it; empty if it has one."""
    if record.test is not None and record.test.scores is not None:
        return ""
    test = (record.config.get("evaluation") or {}).get("test")
    seeds = (record.config.get("confirm") or {}).get("seeds", ConfirmConfig().seeds)
    if test and seeds:
        return (
            "Nothing is confirmed yet: confirmation runs or their test scores are missing. Run the"
            " same command again to resume."
        )
    lacking = [
        *([] if test else ["a test suite as `evaluation.test`"]),
        *([] if seeds else ["`confirm: {seeds: 5}`"]),
    ]
    return (
        "Nothing was confirmed: these are search scores, and the best of them may be lucky. Give"
        f" the study {formatting.listed(lacking)} and run it again. It then retrains its winners"
        " with new seeds and scores them on documents that the search never saw."
    )


def failures(comparison: Comparison) -> list[tuple[str, str]]:
    """Return the arms with failed trials, each with the number of failures by kind."""
    counts = {
        arm.name: [
            f"{n} {formatting.FAILURE_NAMES[kind]}" for kind, n in sorted(arm.failures.items())
        ]
        for arm in comparison.arms
    }
    return [(name, ", ".join(kinds)) for name, kinds in counts.items() if kinds]


def reason(failure: Failure) -> str:
    """Return why a job failed: the kind in words, the message, and what to try."""
    return f"{formatting.FAILURE_NAMES[failure.kind]}: {visible(failure.told())}"


def failure_reasons(record: StudyRecord, most: int | None = None) -> Iterator[tuple[str, str]]:
    """Yield the jobs that failed, each reason once an arm; of more than ``most``, the number."""
    ends = {"teacher": record.teacher, "starting student": record.starting_student}
    for label, outcome in ends.items():
        if outcome is not None and outcome.failure is not None:
            yield label, reason(outcome.failure)
    for arm in record.arms:
        numbers: dict[str, list[int]] = {}
        for trial in arm.trials:
            if trial.outcome is not None and trial.outcome.failure is not None:
                numbers.setdefault(reason(trial.outcome.failure), []).append(trial.number)
        for cause in itertools.islice(numbers, most):
            yield f"{arm.name} {formatting.trial_numbers(numbers[cause])}", cause
        if most is not None and len(numbers) > most:
            yield arm.name, f"{len(numbers) - most} more reasons"


def ended(arm: ArmSummary) -> int:
    """Return how many of the arm's trials have ended, failed ones included."""
    return arm.trials.completed + arm.trials.pruned + arm.trials.failed


def _unfinished(comparison: Comparison) -> str:
    left = {arm.name: arm.budget - ended(arm) for arm in comparison.arms if not arm.stopped}
    waiting = {name: trials for name, trials in left.items() if trials > 0}
    if not waiting:
        return ""
    missing = f"{sum(waiting.values())} of {sum(arm.budget for arm in comparison.arms)} trials"
    listed = ", ".join(f"{name} {trials}" for name, trials in waiting.items())
    return f"The study is not finished: {missing} are missing ({listed})."


def _stopped(comparison: Comparison) -> list[str]:
    sentences = []
    for cause, why in _STOPPED.items():
        if arms := [arm for arm in comparison.arms if arm.stopped == cause]:
            listed = ", ".join(f"{arm.name} {ended(arm)} of {arm.budget}" for arm in arms)
            sentences.append(f"Arms stopped before their last trial ({listed}): {why}.")
    return sentences


def _started_with(comparison: Comparison) -> list[str]:
    """Return which trials had given settings, and what follows for reading the scores."""
    started = [arm for arm in comparison.arms if arm.enqueued]
    if not started:
        return []
    listed = "; ".join(
        f"{arm.name} " + ", ".join(f"#{n} from {e.source()}" for n, e in arm.enqueued.items())
        for arm in started
    )
    sentences = [f"Searches started with given settings ({listed}), which count as trials."]
    if best := [arm.name for arm in started if arm.best and arm.best.number in arm.enqueued]:
        sentences.append(f"The best trial of {formatting.listed(best)} had given settings.")
    if studies := {e.study: None for arm in started for e in arm.enqueued.values() if e.study}:
        names = formatting.listed(list(studies))
        sentences.append(f"Trial budgets do not count the earlier trials of {names}.")
    without = [arm.name for arm in comparison.arms if arm.searched and not arm.enqueued]
    if without:
        names = formatting.listed(without)
        sentences.append(f"Given settings are knowledge that the search of {names} did not have.")
    return sentences


def _budget(arm: ArmSummary) -> str:
    hours = "" if arm.device_hours is None else f" in {arm.device_hours:.3g} device-hours"
    return f"{arm.name} {arm.budget}{hours}"
