"""The sections of a report that list everything: models, trials and failures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from sweeper.analysis.comparison import Comparison, selection_score
from sweeper.records.study_record import ArmRecord, StudyRecord, TrialRecord
from sweeper.reporting.text import formatting, wording
from sweeper.reporting.text.markdown_escape import cell, inline, setting, table

MOST_ROWS = 100
"""Trials of an arm that are listed from either end: the best, and the last."""

MOST_FAILURES = 20
"""Reasons of failure that are listed for an arm."""


def sections(record: StudyRecord, comparison: Comparison) -> Iterator[str]:
    """Teacher and start, each arm with its trials, and what failed."""
    yield "### Teacher and starting student on the selection suite"
    yield _ends_table(record)
    for arm in record.arms:
        yield from _arm_section(arm, comparison)
    yield from _failures(record)


def _ends_table(record: StudyRecord) -> str:
    rows = []
    ends = {"teacher": record.teacher, "starting student": record.starting_student}
    scores = {label: selection_score(outcome) for label, outcome in ends.items()}
    digits = formatting.score_digits(scores.values())
    for label, outcome in ends.items():
        if outcome is None:
            rows.append([label, formatting.NOTHING, "not scored", "", ""])
            continue
        parameters = outcome.model_parameters
        rows.append(
            [
                label,
                formatting.score(scores[label], digits),
                outcome.state,
                formatting.seconds(outcome.cost.device_seconds),
                "" if parameters is None else formatting.count(parameters),
            ]
        )
    header = ["model", "score", "state", "device-seconds", "parameters"]
    return table(header, rows, left=(0, 2))


def _arm_section(arm: ArmRecord, comparison: Comparison) -> Iterator[str]:
    summary = comparison.arm(arm.name)
    yield f"### {arm.name}"
    if summary.best is not None and summary.best.params:
        exact = ", ".join(setting(*one) for one in summary.best.params.items())
        yield f"Best settings, exactly (trial {summary.best.number}): {exact}"
    if arm.settings:
        fixed = ", ".join(setting(*one) for one in arm.settings.items())
        yield f"Fixed settings: {fixed}"
    if not arm.trials:
        yield "No trial has begun."
        return
    listed, omitted = _listed_trials(arm, comparison)
    count = "1 trial" if len(arm.trials) == 1 else f"All {len(arm.trials)} trials"
    if omitted:
        count = f"{len(listed)} of {len(arm.trials)} trials: the {MOST_ROWS} best and the last"
    yield f"<details>\n<summary>{count}</summary>"
    yield _trials_table(listed, formatting.comparison_digits(comparison))
    yield "</details>"


def _listed_trials(arm: ArmRecord, comparison: Comparison) -> tuple[list[TrialRecord], bool]:
    trials = sorted(arm.trials, key=lambda trial: trial.number)
    if len(trials) <= 2 * MOST_ROWS:
        return trials, False
    series = comparison.arm(arm.name).series
    ranked = sorted(series, key=lambda point: point.score, reverse=comparison.higher_is_better)
    kept = {point.number for point in ranked[:MOST_ROWS]}
    kept |= {trial.number for trial in trials[-MOST_ROWS:]}
    return [trial for trial in trials if trial.number in kept], True


def _trials_table(trials: Sequence[TrialRecord], digits: int) -> str:
    rows = []
    for trial in trials:
        outcome = trial.outcome
        cost = outcome.cost if outcome else None
        state: str = trial.state
        if outcome and outcome.failure:
            state += f": {formatting.FAILURE_NAMES[outcome.failure.kind]}"
        rows.append(
            [
                str(trial.number),
                state,
                formatting.score(selection_score(outcome), digits),
                cell(formatting.settings(trial.params, 4)) or formatting.NOTHING,
                str(cost.steps) if cost else "",
                formatting.tokens(cost) if cost else "",
                formatting.seconds(cost.device_seconds) if cost else "",
            ]
        )
    header = ["trial", "state", "score", "settings", "steps", "tokens", "device-seconds"]
    return table(header, rows, left=(1, 3))


def _failures(record: StudyRecord) -> Iterator[str]:
    lines = []
    ends = (("teacher", record.teacher), ("starting student", record.starting_student))
    for label, outcome in ends:
        if outcome is not None and outcome.failure is not None:
            lines.append(f"- {label}: {inline(wording.reason(outcome.failure))}")
    for arm in record.arms:
        reasons = list(wording.reasons(arm).items())
        for reason, numbers in reasons[:MOST_FAILURES]:
            lines.append(f"- {arm.name} {formatting.trial_numbers(numbers)}: {inline(reason)}")
        if len(reasons) > MOST_FAILURES:
            lines.append(f"- {arm.name}: {len(reasons) - MOST_FAILURES} further reasons")
    if lines:
        yield "### Failures"
        yield "\n".join(lines)
