"""The sections of a report that list models, trials and failures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from sweeper.analysis.comparison import Comparison, selection_score
from sweeper.records.study_record import ArmRecord, StudyRecord, TrialRecord
from sweeper.reporting.text import formatting
from sweeper.reporting.text.markdown_escape import cell, code, inline, setting, table
from sweeper.reporting.text.search import failure_reasons

MOST_ROWS = 100
"""Most trials listed from either end of an arm: the best and the last."""

MOST_FAILURES = 20
"""Most reasons of failure listed for an arm."""


def sections(record: StudyRecord, comparison: Comparison) -> Iterator[str]:
    """Yield teacher and starting student, each arm with its trials, and the failures."""
    yield "### Teacher and starting student on the selection suite"
    yield _ends_table(record)
    scored_served = (record.config.get("evaluation") or {}).get("engine") == "vllm"
    has_score = record.teacher is not None and record.teacher.scores is not None
    if (record.config.get("teacher") or {}).get("server") and not (scored_served or has_score):
        yield (
            "The teacher answers over a server (`teacher.server`). It has no score, as suites are"
            " scored on models that are loaded: gap closed and the teacher's lines are left out."
        )
    for arm in record.arms:
        yield from _arm_section(arm, comparison)
    if failures := list(failure_reasons(record, MOST_FAILURES)):
        yield "### Failures"
        yield "\n".join(f"- {job}: {inline(why)}" for job, why in failures)


def _ends_table(record: StudyRecord) -> str:
    rows: list[list[str]] = []
    ends = {"teacher": record.teacher, "starting student": record.starting_student}
    own = {arm.name: arm.teacher for arm in record.arms if arm.teacher is not None}
    ends |= {f"teacher of {code(name)}": outcome for name, outcome in own.items()}
    scores = {label: selection_score(outcome) for label, outcome in ends.items()}
    digits = formatting.score_digits(scores.values())
    for label, outcome in ends.items():
        cells = ["not scored", "", ""]
        if outcome is not None:
            parameters = outcome.model_parameters
            count = "" if parameters is None else formatting.count(parameters)
            cells = [outcome.state, formatting.seconds(outcome.cost.device_seconds), count]
        rows.append([label, formatting.score(scores[label], digits), *cells])
    header = ["model", "score", "state", "device-seconds", "parameters"]
    return table(header, rows, left=(0, 2))


def _arm_section(arm: ArmRecord, comparison: Comparison) -> Iterator[str]:
    summary = comparison.arm(arm.name)
    yield f"### {arm.name}"
    if summary.best is not None and summary.best.params:
        exact = ", ".join(setting(*item) for item in summary.best.params.items())
        yield f"Exact best settings (trial {summary.best.number}): {exact}"
    if arm.settings:
        yield f"Fixed settings: {', '.join(setting(*item) for item in arm.settings.items())}"
    if not arm.trials:
        yield "No trial has started."
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
        costs = ["", "", ""]
        if trial.outcome is not None:
            cost = trial.outcome.cost
            seconds = formatting.seconds(cost.device_seconds)
            costs = [str(cost.steps), formatting.tokens(cost), seconds]
        score = formatting.score(selection_score(trial.outcome), digits)
        settings = cell(formatting.trial_settings(trial, 4)) or formatting.NOTHING
        rows.append([str(trial.number), formatting.trial_state(trial), score, settings, *costs])
    header = ["trial", "state", "score", "settings", "steps", "tokens", "device-seconds"]
    return table(header, rows, left=(1, 3))
