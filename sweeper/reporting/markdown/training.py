"""Lessons on training in the report, in the terminal and as JSON: settings, advice, failures."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from matplotlib.figure import Figure
from rich.console import Group, RenderableType
from rich.text import Text

from sweeper.analysis.comparison import Comparison
from sweeper.analysis.learning_curves import LearningCurve
from sweeper.analysis.recommendation import Recommendation
from sweeper.analysis.training_lessons import TrainingLessons
from sweeper.foundation.secrets import redacted
from sweeper.reporting.console import bulleted, part
from sweeper.reporting.plots.rollouts import rollout_plot
from sweeper.reporting.plots.training import learning_plot
from sweeper.reporting.text import training
from sweeper.reporting.text.markdown_escape import as_yaml, fenced, inline, table
from sweeper.reporting.text.terminal_escape import visible

CURVES_IMAGE = "learning_curves.png"
ROLLOUTS_IMAGE = "rollouts.png"


def training_plots(lessons: TrainingLessons, comparison: Comparison) -> dict[str, Figure | None]:
    """Draw the plots, by file name; None for a plot without anything to show."""
    return {
        CURVES_IMAGE: learning_plot(comparison, lessons.curves),
        ROLLOUTS_IMAGE: rollout_plot(comparison, lessons.rollout_curves),
    }


def fragment(arms: dict[str, Any]) -> str:
    """Write arms as a study file has them, without secrets."""
    return visible(as_yaml({"arms": arms}))


def training_sections(lessons: TrainingLessons, images: set[str]) -> Iterator[str]:
    """Yield the report's sections; a plot is shown if ``images`` has its file name."""
    yield from _recommended(lessons.recommendation)
    yield from _advice(lessons)
    warnings = training.rollout_warnings(lessons.rollout_stats)
    drawn = bool(lessons.rollout_curves) and ROLLOUTS_IMAGE in images
    if warnings or drawn:
        yield "## Rollouts"
    if warnings:
        yield "\n".join(f"- {inline(line)}" for line in warnings)
    if drawn:
        yield f"![Rollouts by optimiser step]({ROLLOUTS_IMAGE})"
        yield _ROLLOUTS_READING
    if lessons.curves and CURVES_IMAGE in images:
        yield "## How the winners learned"
        yield f"![How the winners learned]({CURVES_IMAGE})"
        yield _curves_reading(lessons.curves)
    if failed := _failures(lessons):
        yield "## Where trials failed"
        yield "\n".join(f"- {inline(arm)}: {inline(sentence)}." for arm, sentence in failed)


def training_view(lessons: TrainingLessons) -> RenderableType | None:
    """Render the lessons for the terminal; return None if there are none."""
    parts = []
    if (choice := lessons.recommendation) is not None:
        text = Text(fragment(choice.arms).rstrip(), style="green")
        parts += [part("Settings to use", Text(training.recommendation_reason(choice)), text)]
    if lines := _advice_lines(lessons):
        parts += [part(_ADVICE_TITLE, bulleted(lines, style=""))]
    if warnings := training.rollout_warnings(lessons.rollout_stats):
        parts += [part("Rollouts", bulleted(warnings, style="yellow"))]
    if failed := [f"{arm}: {sentence}." for arm, sentence in _failures(lessons)]:
        parts += [part("Where trials failed", bulleted(map(visible, failed), style=""))]
    return Group(*parts) if parts else None


def _failures(lessons: TrainingLessons) -> list[tuple[str, str]]:
    """Return a sentence on each kind of failure in each arm, with the arm's name."""
    failed = [(group.arm, training.failure_sentence(group)) for group in lessons.failures]
    return failed + [(group.arm, training.rescored_sentence(group)) for group in lessons.rescored]


def training_json(lessons: TrainingLessons) -> dict[str, Any]:
    """Return the lessons as plain JSON values."""
    recommended = None
    if (choice := lessons.recommendation) is not None:
        recommended = {
            **redacted(choice.model_dump(mode="json", exclude={"arms", "narrowed"})),
            "reason": training.recommendation_reason(choice),
            "fragment": fragment(choice.arms),
            "narrowed_fragment": fragment(choice.narrowed) if choice.narrowed else None,
        }
    return {
        "recommended": recommended,
        "advice": [
            {
                **one.model_dump(mode="json"),
                "advice": training.ADVICE[one.topic],
                "evidence": training.advice_evidence(one),
            }
            for one in training.judged(lessons.advice)
        ],
        "open_advice": training.open_advice_sentence(lessons.advice),
        "failures": [
            {**group.model_dump(mode="json"), "sentence": training.failure_sentence(group)}
            for group in lessons.failures
        ],
        "rescored": [
            {**group.model_dump(mode="json"), "sentence": training.rescored_sentence(group)}
            for group in lessons.rescored
        ],
        "rollouts": _rollout_json(lessons),
    }


def _rollout_json(lessons: TrainingLessons) -> dict[str, Any] | None:
    if (stats := lessons.rollout_stats) is None:
        return None
    return {
        "trials": stats.trials,
        "truncated": [{"arm": trial.arm, "number": trial.number} for trial in stats.truncated],
        "longer": [{"arm": trial.arm, "number": trial.number} for trial in stats.longer],
        "differing": [
            {
                "arm": trial.arm,
                "number": trial.number,
                "logprob_diff": trial.rollouts.logprob_diff,
                "limit": trial.rollouts.logprob_diff_limit,
            }
            for trial in stats.differing
        ],
        "collapsed": [case.model_dump(mode="json") for case in stats.collapsed],
        "reference_length": stats.reference_length,
        "warnings": training.rollout_warnings(stats),
    }


def _recommended(choice: Recommendation | None) -> Iterator[str]:
    if choice is None:
        return
    yield "## Settings to use"
    yield inline(training.recommendation_reason(choice))
    yield f"Trial {choice.trial} of {inline(choice.arm)}, in few digits, as an arm of a study file:"
    yield fenced(fragment(choice.arms), "yaml")
    if choice.narrowed is not None:
        yield "To continue the search where its best trials were:"
        yield fenced(fragment(choice.narrowed), "yaml")


_ADVICE_TITLE = "Common advice, tested on this study's trials"


def _advice(lessons: TrainingLessons) -> Iterator[str]:
    if not lessons.advice:
        return
    yield f"## {_ADVICE_TITLE}"
    if rows := training.judged(lessons.advice):
        yield table(
            ["advice", "here", "evidence"],
            [
                [training.ADVICE[row.topic], row.judgement, inline(training.advice_evidence(row))]
                for row in rows
            ],
            left=(0, 1, 2),
        )
        yield training.RULE
    if sentence := training.open_advice_sentence(lessons.advice):
        yield inline(sentence)


def _advice_lines(lessons: TrainingLessons) -> list[str]:
    sentences = [
        f"{training.ADVICE[row.topic]} {row.judgement.capitalize()}:"
        f" {training.advice_evidence(row)}."
        for row in training.judged(lessons.advice)
    ]
    return list(filter(None, [*sentences, training.open_advice_sentence(lessons.advice)]))


_ROLLOUTS_READING = (
    "Rollouts of each arm's winner, mean and range over seeds, or of its best trial; dashed: trials"
    " that showed a sign of collapse. Repetition is the share of an answer's 4-grams that repeat an"
    " earlier one. Entropy is the student's at temperature 1, thin the teacher's at the same"
    " positions. The teacher's log-probability is of the student's tokens."
)


def _curves_reading(curves: tuple[LearningCurve, ...]) -> str:
    seeds = max(step.seeds for curve in curves for step in curve.steps)
    over = "one seed" if seeds == 1 else f"mean and range over {seeds} seeds"
    if curves[0].measure == "loss":
        return (
            f"Training loss of each arm's winner: {over}. Losses do not compare between arms: each"
            " arm has its own divergence and its own sequences."
        )
    return (
        f"Distance of each arm's winner from the teacher on the same fixed text: {over}. The text"
        " is the teacher's, cut short. It shows little of what a student does on text of its own."
        " Training losses do not compare between arms."
    )
