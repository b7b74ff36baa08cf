"""Lessons of the search in the report, in the terminal and as JSON."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from matplotlib.figure import Figure
from rich.console import Group, RenderableType
from rich.text import Text

from sweeper.analysis.comparison import Comparison
from sweeper.analysis.importance.effects import Effect
from sweeper.analysis.importance.importance import Importance
from sweeper.analysis.importance.lessons import ArmLessons, SearchLessons
from sweeper.analysis.importance.ranges import ExhaustedRange
from sweeper.records.study_record import StudyRecord
from sweeper.reporting.console import Chain, definitions, part
from sweeper.reporting.plots.importance import MOST_PANELS, effects_plot, importance_plot
from sweeper.reporting.plots.lmbda_beta import lmbda_beta_plot
from sweeper.reporting.text import formatting
from sweeper.reporting.text.markdown_escape import as_yaml, cell, code, inline, table

FEW_TRIALS = 20
"""Number of trials below which the report warns that only large differences matter."""


def search_plots(
    record: StudyRecord, comparison: Comparison, lessons: SearchLessons
) -> dict[str, Figure | None]:
    """Draw the plots, by file name; None for a plot without anything to show."""
    importances = [arm.importance for arm in lessons.arms if arm.importance]
    effects = [effect for arm in lessons.arms for effect in arm.effects]
    return {
        "importance.png": importance_plot(importances, comparison),
        "effects.png": effects_plot(record, comparison, effects),
        "lmbda_beta.png": lmbda_beta_plot(record, comparison),
    }


def search_sections(
    comparison: Comparison, lessons: SearchLessons, images: set[str]
) -> Iterator[str]:
    """Yield the report's sections; a plot is shown if ``images`` has its file name."""
    yield from _importance_section(lessons, images)
    yield from _effects_section(comparison, lessons, images)
    if "lmbda_beta.png" in images:
        yield "## The GKD settings"
        yield "![The GKD settings](lmbda_beta.png)"
        yield (
            "Each mark is a trial of a GKD arm; other settings vary too. Trials with the same"
            " values are drawn next to one another."
        )
    yield from _ranges_section(lessons)


def search_view(comparison: Comparison, lessons: SearchLessons) -> RenderableType | None:
    """Render a few lines for each arm for the terminal; return None if there are none."""
    if not lessons.arms:
        return None
    digits = formatting.comparison_digits(comparison)
    arms = [Group(Text(arm.arm), definitions(_rows(arm, digits))) for arm in lessons.arms]
    return part("What the search taught (80 % of re-fits)", *arms)


def search_json(lessons: SearchLessons) -> dict[str, Any]:
    """Return importance, effects and exhausted ranges by arm, as plain JSON values."""
    return {
        "importance": {
            arm.arm: arm.importance.model_dump(mode="json", exclude={"arm"})
            for arm in lessons.arms
            if arm.importance
        },
        "effects": {
            arm.arm: {
                effect.name: {
                    **effect.model_dump(mode="json", exclude={"arm", "name"}),
                    "clear": effect.clear,
                }
                for effect in arm.effects
            }
            for arm in lessons.arms
        },
        "exhausted_ranges": {
            arm.arm: [one.model_dump(mode="json", exclude={"arm"}) for one in arm.exhausted]
            for arm in lessons.arms
        },
    }


def _importance_section(lessons: SearchLessons, images: set[str]) -> Iterator[str]:
    importances = [arm.importance for arm in lessons.arms if arm.importance]
    if not importances:
        return
    conditional = any(one.conditional for one in importances)
    yield "## Which settings matter"
    if "importance.png" in images:
        yield "![Which settings matter](importance.png)"
    reading = (
        "Share of the score's variance that each setting explains on its own (fANOVA), scaled so"
        " that the shares of an arm sum to 100 %. In brackets: 80 % of 20 re-fits, each to another"
        " half of the trials."
    )
    if conditional:
        reading += (
            " Hatched: settings that only some trials sampled. They are estimated within those"
            " trials, on a scale of their own."
        )
    if any(one.trials < FEW_TRIALS for one in importances):
        reading += " With so few trials, only large differences matter."
    yield reading
    rows = []
    for one in importances:
        for name, share in _shares(one).items():
            within = name in one.conditional
            count = one.conditional_trials if within else one.trials
            rows.append([one.arm, cell(code(name)), share + " †" * within, str(count)])
    yield table(["arm", "setting", "share", "trials"], rows, left=(0, 1))
    if conditional:
        yield "† Among the trials that sampled every setting."


def _effects_section(
    comparison: Comparison, lessons: SearchLessons, images: set[str]
) -> Iterator[str]:
    if not lessons.arms:
        return
    yield "## What each setting does"
    if "effects.png" in images:
        yield "![What each setting does](effects.png)"
    reading = (
        "Score over each setting, with the arm's other settings averaged out over their ranges. The"
        " bands hold 80 % of 20 re-fits. Points are trials, whose other settings vary too. One half"
        " of the trials chooses the best and the worst value; the other half checks them. An effect"
        " is clear if at least 90 % of the re-fits pass."
    )
    if sum(len(arm.effects) for arm in lessons.arms) > MOST_PANELS:
        reading += f" The plot shows the {MOST_PANELS} largest effects."
    yield reading
    digits = formatting.comparison_digits(comparison)
    lines = []
    for arm in lessons.arms:
        for effect in arm.effects:
            if effect.clear:
                lines.append(f"- {arm.arm}, {code(effect.name)}: {inline(_clear(effect, digits))}.")
        if unclear := _unclear(arm, digits):
            lines.append(f"- {arm.arm}, no clear effect: {inline(', '.join(unclear))}.")
    yield "\n".join(lines)


def _ranges_section(lessons: SearchLessons) -> Iterator[str]:
    exhausted = [one for arm in lessons.arms for one in arm.exhausted]
    if not exhausted:
        return
    yield "## Ranges to widen"
    yield (
        "These settings have a clear effect that is best at an end of the searched range, where"
        " good trials lie."
    )
    yield "\n".join(
        f"- {one.arm}, {code(one.name)}: {_end(one)}; "
        + (f"continue with {code(_yaml(one))}" if one.wider else _NO_FURTHER)
        for one in exhausted
    )


_NO_FURTHER = "the setting goes no further"


def _rows(arm: ArmLessons, digits: int) -> Iterator[tuple[str, RenderableType]]:
    if one := arm.importance:
        within = f" in {one.conditional_trials} trials"
        shares = (
            f"{formatting.number(name)} {share}{within if name in one.conditional else ''}"
            for name, share in _shares(one).items()
        )
        yield "importance", Chain(" · ".join(shares))
    for effect in arm.effects:
        if effect.clear:
            yield formatting.number(effect.name), Text(_clear(effect, digits))
    if unclear := _unclear(arm, digits):
        yield "no clear effect", Chain(" · ".join(unclear))
    for exhausted in arm.exhausted:
        end = _end(exhausted)
        if exhausted.wider:
            yield "widen", Text(f"{_yaml(exhausted)} ({end})")
        else:
            yield "at the end", Text(f"{formatting.number(exhausted.name)}: {end}; {_NO_FURTHER}")


def _shares(one: Importance) -> dict[str, str]:
    """Format each setting's share with its interval, in whole per cent that sum to 100."""
    whole = formatting.whole_percents({name: share.share for name, share in one.values.items()})
    whole |= {name: round(share.share * 100) for name, share in one.conditional.items()}
    return {
        name: f"{whole[name]} % ({share.low * 100:.0f}–{share.high * 100:.0f})"
        for name, share in (one.values | one.conditional).items()
    }


def _clear(effect: Effect, digits: int) -> str:
    near = "near" if effect.scale in ("linear", "log") else "at"
    best, worst = formatting.number(effect.best), formatting.number(effect.worst)
    low, high = f"{effect.checked_low:.{digits}f}", f"{effect.checked_high:.{digits}f}"
    return (
        f"best {near} {best}, worst {near} {worst}, {effect.difference:.{digits}f} apart"
        f" (checked: {low} to {high})"
    )


def _unclear(arm: ArmLessons, digits: int) -> list[str]:
    return [
        f"{formatting.number(effect.name)} ({effect.difference:.{digits}f})"
        for effect in arm.effects
        if not effect.clear
    ]


def _end(one: ExhaustedRange) -> str:
    side = "upper" if one.end == "high" else "lower"
    best, limit = formatting.number(one.best), formatting.number(one.limit)
    return f"best at {best}, the {side} end is {limit}"


def _yaml(one: ExhaustedRange) -> str:
    return as_yaml({one.name: one.wider}, flow=True).strip()
