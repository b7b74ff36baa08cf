"""The report of a study as a folder: ``report.md`` with its plots, for GitHub and other viewers.

The same records give the same text: nothing in it depends on when or where it is written.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from matplotlib.figure import Figure

from sweeper.analysis.comparison import Comparison, compare, selection_score
from sweeper.analysis.lessons import SearchLessons, search_lessons
from sweeper.analysis.verdict import TEST, Verdict, verdict_of
from sweeper.paths import remove_leftovers, write_bytes_atomically, write_text_atomically
from sweeper.reporting import formatting, plots, verdict_table, verdict_wording, wording
from sweeper.reporting.escaping import cell, inline, setting, table
from sweeper.reporting.plot_style import png
from sweeper.reporting.reproduction import data_sections, reproduction_sections
from sweeper.reporting.search_lessons import search_plots, search_sections
from sweeper.study_record import ArmRecord, StudyRecord, TrialRecord

TEXT_NAME = "report.md"
MOST_ROWS = 100
"""Trials of an arm that are listed from either end: the best, and the last."""

MOST_FAILURES = 20
"""Reasons of failure that are listed for an arm."""


def write_report(record: StudyRecord, directory: Path) -> list[Path]:
    """Write the report of a study that may be at any stage.

    Args:
        record: The study.
        directory: The report's own folder; it is made when missing. Files of an earlier report in
            it are replaced, and plots that no longer have anything to show are removed.

    Returns:
        The files that were written, ``report.md`` first.
    """
    directory.mkdir(parents=True, exist_ok=True)
    remove_leftovers(directory)
    comparison = compare(record)
    lessons = search_lessons(record)
    drawn = _draw(record, comparison, lessons)
    # Plots first: a reader of the new text finds all that it shows.
    images = []
    for name, figure in drawn.items():
        path = directory / name
        if figure is None:
            path.unlink(missing_ok=True)
        else:
            write_bytes_atomically(path, png(figure))
            images.append(path)
    shown = {path.name for path in images}
    text = "\n\n".join(_sections(record, comparison, lessons, shown)) + "\n"
    write_text_atomically(directory / TEXT_NAME, text)
    return [directory / TEXT_NAME, *images]


def _draw(
    record: StudyRecord, comparison: Comparison, lessons: SearchLessons
) -> dict[str, Figure | None]:
    return {
        "progress.png": plots.progress_plot(comparison),
        "cost.png": plots.cost_plot(record, comparison),
        **search_plots(record, comparison, lessons),
    }


def _sections(
    record: StudyRecord,
    comparison: Comparison,
    lessons: SearchLessons,
    images: set[str],
) -> Iterator[str]:
    yield f"# {inline(record.study)}"
    verdict = verdict_of(record, comparison.best_gkd)
    if verdict is not None:
        yield f"**{inline(verdict_wording.headline(verdict))}**"
        yield from _verdict(verdict)
        yield "## The search"
        yield inline(wording.headline(comparison))
    else:
        yield f"**{inline(wording.headline(comparison))}**"
    if unsafe := wording.outside_code(record.config):
        keys = formatting.listed(inline(_as_code(key)) for key in unsafe)
        yield f"> **Code from outside was allowed to run:** {keys}."
    if notes := wording.notes(comparison):
        yield "\n".join(f"- {inline(note)}" for note in notes)
    yield "## Comparison"
    yield _comparison_table(comparison)
    yield _cost_table(comparison)
    if preparation := _preparation(comparison):
        yield preparation
    yield from _plots(images)
    yield from search_sections(comparison, lessons, images)
    yield from _fronts(comparison)
    yield "## Trials"
    yield _ends_table(record)
    for arm in record.arms:
        yield from _arm_section(arm, comparison)
    yield from _failures(record)
    yield from data_sections(record)
    yield from reproduction_sections(record)


def _verdict(verdict: Verdict) -> Iterator[str]:
    """The winners on the test suite, and each comparison."""
    for at in verdict_table.measures(verdict):
        yield f"## The test suite {inline(verdict.suite)}, at equal {at.replace('_', ' ')}"
        rows = []
        ends = (("*teacher*", verdict.teacher), ("*starting student*", verdict.starting_student))
        for label, end in ends:
            if end is not None:
                rows.append([label, *verdict_table.end_cells(end)])
        for arm in verdict.at(at):
            name = cell(f"{arm.arm} #{arm.trial}")
            rows.append([name, *verdict_table.arm_cells(arm)])
        yield table(["winner", *verdict_table.COLUMNS], rows, left={0})
        told = verdict_wording.sentences(verdict, at)
        yield "\n".join(f"- {inline(sentence)}" for sentence in told)
    notes = [
        "The search's luck is by how much its score of a winner exceeds that of new seeds on the"
        " same selection suite.",
        f"Intervals are of 95 % and hold for other seeds and other documents. p is that of a"
        f" {TEST}.",
        *verdict_wording.notes(verdict),
    ]
    yield "\n".join(f"- {inline(note)}" for note in notes)


def _as_code(key: str) -> str:
    name, _, rest = key.partition(" ")
    return f"`{name}` {rest}"


def _comparison_table(comparison: Comparison) -> str:
    digits = formatting.comparison_digits(comparison)
    states = f"trials {formatting.trial_states(comparison)}"
    header = ["arm", states, "score", "to the best offline arm", "gap closed"]
    header.append("device-seconds of the best trial")
    rows = []
    for label, value, share in (
        ("*teacher = ceiling*", comparison.teacher, 1.0),
        ("*starting student = floor*", comparison.starting_student, 0.0),
    ):
        if value is not None:
            known = any(arm.gap_closed is not None for arm in comparison.arms)
            gap = formatting.percent(share) if known else ""
            rows.append([label, "", formatting.score(value, digits), "", gap, ""])
    for arm in comparison.arms:
        name = formatting.arm_name(arm)
        scored = arm.best is not None and arm.best.outcome is not None
        rows.append(
            [
                f"**{name}**" if arm.name in comparison.leaders else name,
                formatting.trial_counts(arm, comparison),
                formatting.score(arm.best_score, digits),
                formatting.difference(arm.difference, digits) if scored else "",
                formatting.percent(arm.gap_closed) if scored else "",
                formatting.seconds(arm.best.outcome.cost.device_seconds)
                if arm.best and arm.best.outcome
                else "",
            ]
        )
    return table(header, rows, left=(0,))


def _cost_table(comparison: Comparison) -> str:
    rows = []
    for arm in comparison.arms:
        cost = arm.best.outcome.cost if arm.best and arm.best.outcome else None
        rows.append(
            [
                arm.name,
                cell(formatting.best_settings(arm)),
                str(cost.steps) if cost else "",
                formatting.tokens(cost) if cost else "",
                formatting.seconds(arm.cost.device_seconds),
            ]
        )
    header = ["arm", "settings of the best trial", "its steps", "its tokens trained / sampled"]
    return table([*header, "device-seconds of all trials"], rows, left=(0, 1))


def _preparation(comparison: Comparison) -> str:
    seconds = comparison.preparation_cost.device_seconds
    if not seconds:
        return ""
    return (
        "Device-seconds include training and evaluation. Preparing and scoring the teacher and the"
        f" starting student took another {formatting.seconds(seconds)}, shared by all arms and in"
        " none of these numbers."
    )


def _plots(images: set[str]) -> Iterator[str]:
    readings = {
        "progress.png": (
            "Score by trial",
            "Points are trials, lines each arm's best so far; an arm with a single trial is a mark."
            " An arm whose line still climbs at the right end might gain from more trials.",
        ),
        "cost.png": (
            "Score against cost",
            "Faint points are trials, large ones each arm's best. Of two arms at the same height,"
            " the one further left is cheaper.",
        ),
    }
    for name, (title, reading) in readings.items():
        if name in images:
            yield f"## {title}"
            yield f"![{title}]({name})"
            yield reading


def _fronts(comparison: Comparison) -> Iterator[str]:
    if not any(arm.front for arm in comparison.arms):
        return
    digits = formatting.comparison_digits(comparison)
    rows = [
        [
            arm.name,
            str(point.trial.number),
            *(formatting.objective(name, value, digits) for name, value in point.values.items()),
            cell(formatting.settings(point.trial.params)) or formatting.NOTHING,
        ]
        for arm in comparison.arms
        for point in arm.front
    ]
    yield "## Pareto fronts"
    yield (
        "The trials that no other one of their arm beats in one objective without being worse in"
        " another. The comparison above is by the score alone."
    )
    names = [name.replace("_", " ") for name in comparison.objectives]
    yield table(["arm", "trial", *names, "settings"], rows, left=(0, len(names) + 2))


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
        yield "## Failures"
        yield "\n".join(lines)
