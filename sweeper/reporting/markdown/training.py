"""What a study teaches about training well: settings to take, advice, failures and rollouts.

``practice_lessons`` looks once; the other functions show what it found, as plots, as Markdown, in
the terminal and as JSON.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from matplotlib.figure import Figure
from rich.console import Group, RenderableType
from rich.text import Text

from sweeper.analysis.advice import Advice, Judgement
from sweeper.analysis.comparison import Comparison
from sweeper.analysis.learning_curves import LearningCurve
from sweeper.analysis.poor_quality import PoorQuality
from sweeper.analysis.recommendation import Recommendation
from sweeper.analysis.training_lessons import PracticeLessons
from sweeper.foundation.secrets import redacted
from sweeper.reporting.console import bulleted, heading
from sweeper.reporting.plots.training import learning_plot, rollout_plot
from sweeper.reporting.text import training
from sweeper.reporting.text.markdown_escape import as_yaml, fenced, inline, table
from sweeper.reporting.text.terminal_escape import visible

REALISED_IMAGE, CURVES_IMAGE = "realised.png", "learning_curves.png"


def practice_plots(lessons: PracticeLessons, comparison: Comparison) -> dict[str, Figure | None]:
    """The plots by file name; None for those without anything to show."""
    return {
        REALISED_IMAGE: rollout_plot(comparison, lessons.rollout_stats),
        CURVES_IMAGE: learning_plot(comparison, lessons.curves),
    }


def fragment(arms: dict[str, Any]) -> str:
    """Arms as a study file has them, without secrets."""
    return visible(as_yaml({"arms": arms}))


def practice_sections(lessons: PracticeLessons, images: set[str]) -> Iterator[str]:
    """The report's sections; images are shown only if they were written."""
    yield from _recommended(lessons.recommendation)
    yield from _advice(lessons)
    yield from _rollout_stats(lessons, images)
    if lessons.curves and CURVES_IMAGE in images:
        yield "## How the winners learned"
        yield f"![How the winners learned]({CURVES_IMAGE})"
        yield _curves_reading(lessons.curves)
    if lessons.failures:
        yield "## Where trials failed"
        yield "\n".join(
            f"- {inline(group.arm)}: {inline(training.failure_sentence(group))}."
            for group in lessons.failures
        )


def practice_view(lessons: PracticeLessons) -> RenderableType | None:
    """The settings to take, the advice that was tested, and the failures; None without any."""
    parts: list[RenderableType] = []
    if (found := lessons.recommendation) is not None:
        text = Text(fragment(found.arms).rstrip(), style="green")
        parts += [
            heading("Settings to take"),
            Text(training.recommendation_reason(found)),
            text,
        ]
    lines = _advice_lines(lessons.advice)
    if lessons.poor_quality is not None:
        lines.insert(0, visible(training.poor_quality_sentences(lessons.poor_quality)))
    if lines:
        parts += ["", heading("Common advice, on this study's evidence"), bulleted(lines, style="")]
    warnings = training.rollout_warnings(lessons.rollout_stats) if lessons.rollout_stats else []
    if warnings:
        parts += ["", heading("Rollouts"), bulleted(warnings, style="yellow")]
    if lessons.failures:
        failed = [f"{g.arm}: {training.failure_sentence(g)}." for g in lessons.failures]
        parts += ["", heading("Where trials failed"), bulleted(map(visible, failed), style="")]
    if not parts:
        return None
    return Group(*(parts[1:] if parts[0] == "" else parts))


def practice_json(lessons: PracticeLessons) -> dict[str, Any]:
    """The same as plain values."""
    found = lessons.recommendation
    recommended = None
    if found is not None:
        plain = redacted(found.model_dump(mode="json", exclude={"arms", "narrowed"}))
        recommended = {
            **plain,
            "reason": training.recommendation_reason(found),
            "fragment": fragment(found.arms),
            "narrowed_fragment": fragment(found.narrowed) if found.narrowed else None,
        }
    return {
        "recommended": recommended,
        "advice": [
            {
                **one.model_dump(mode="json"),
                "advice": training.ADVICE[one.topic],
                "told": training.advice_evidence(one),
            }
            for one in lessons.advice
        ],
        "poor_quality": _poor_quality_json(lessons.poor_quality),
        "failures": [
            {**group.model_dump(mode="json"), "sentence": training.failure_sentence(group)}
            for group in lessons.failures
        ],
        "realised": _rollout_json(lessons),
    }


def _poor_quality_json(found: PoorQuality | None) -> dict[str, Any] | None:
    if found is None:
        return None
    sentence = training.poor_quality_sentences(found)
    return {**found.model_dump(mode="json"), "sentence": sentence}


def _rollout_json(lessons: PracticeLessons) -> dict[str, Any] | None:
    if (found := lessons.rollout_stats) is None:
        return None
    return {
        "trials": len(found.trials),
        "trends": [trend.model_dump(mode="json") for trend in found.trends],
        "truncated": [{"arm": trial.arm, "number": trial.number} for trial in found.truncated],
        "longer": [{"arm": trial.arm, "number": trial.number} for trial in found.longer],
        "reference_length": found.reference_length,
        "sentences": _rollout_sentences(lessons),
        "warnings": training.rollout_warnings(found),
    }


def _recommended(found: Recommendation | None) -> Iterator[str]:
    if found is None:
        return
    yield "## The settings to take"
    yield inline(training.recommendation_reason(found))
    yield (f"Trial {found.trial} of {inline(found.arm)}, in few digits, as an arm of a study file:")
    yield fenced(fragment(found.arms), "yaml")
    if found.narrowed is not None:
        yield "To search on, where its best trials were:"
        yield fenced(fragment(found.narrowed), "yaml")


def _advice(lessons: PracticeLessons) -> Iterator[str]:
    if not lessons.advice:
        return
    yield "## Common advice, on this study's evidence"
    if lessons.poor_quality is not None:
        yield inline(training.poor_quality_sentences(lessons.poor_quality))
    yield table(
        ["advice", "here", "evidence"],
        [
            [
                inline(training.ADVICE[one.topic]),
                _marked(one.judgement),
                inline(training.advice_evidence(one)),
            ]
            for one in _told_first(lessons.advice)
        ],
        left=(0, 1, 2),
    )
    yield training.RULE


def _marked(judgement: Judgement) -> str:
    text = training.JUDGEMENTS[judgement]
    return text if judgement == "untold" else f"**{text}**"


def _told_first(found: tuple[Advice, ...]) -> list[Advice]:
    return sorted(found, key=lambda one: one.judgement == "untold")


def _advice_lines(found: tuple[Advice, ...]) -> list[str]:
    """What was told, with its numbers; of the rest, how much there is."""
    lines = []
    for one in found:
        if one.judgement != "untold":
            told = training.JUDGEMENTS[one.judgement]
            evidence = training.advice_evidence(one)
            lines.append(f"{training.ADVICE[one.topic]} {told.capitalize()}: {evidence}.")
    if untold := sum(one.judgement == "untold" for one in found):
        more = " more" if lines else ""
        pieces = f"{untold}{more} piece{'s' if untold > 1 else ''} of advice"
        lines.append(f"{pieces} cannot be told here: the report has the numbers.")
    return lines


def _rollout_stats(lessons: PracticeLessons, images: set[str]) -> Iterator[str]:
    if lessons.rollout_stats is None:
        return
    told = [*training.rollout_warnings(lessons.rollout_stats), *_rollout_sentences(lessons)]
    if not told and REALISED_IMAGE not in images:
        return
    yield "## What GKD sampled"
    if REALISED_IMAGE in images:
        yield f"![What GKD sampled]({REALISED_IMAGE})"
        yield (
            "Each mark is a trial of a GKD arm; shares and lengths are means over its training."
            " Other settings vary too: what goes with a score need not be its cause."
        )
    if told:
        yield "\n".join(f"- {inline(line)}" for line in told)


def _rollout_sentences(lessons: PracticeLessons) -> list[str]:
    assert lessons.rollout_stats is not None
    return training.rollout_sentences(
        lessons.rollout_stats, reversed_scores=not lessons.higher_is_better
    )


def _curves_reading(curves: tuple[LearningCurve, ...]) -> str:
    seeds = max(step.seeds for curve in curves for step in curve.steps)
    over = "one seed" if seeds == 1 else f"the mean and the range over {seeds} seeds"
    if curves[0].measure == "loss":
        return (
            f"The training losses of each arm's winner: {over}. They do not compare between arms:"
            " each has its own divergence and its own sequences."
        )
    return (
        f"How far each arm's winner is from the teacher on the same fixed text: {over}. The text is"
        " the teacher's, cut short, so this says little of what a student does on text of its own;"
        " training losses do not compare between arms at all."
    )
