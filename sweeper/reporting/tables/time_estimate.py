"""The estimated time of a study, by arm, in the terminal."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import RenderableType

from sweeper.analysis.timing import DurationEstimate
from sweeper.reporting.console import bulleted, heading, plain_table
from sweeper.reporting.text import formatting


def estimate_view(estimate: DurationEstimate) -> list[RenderableType]:
    """Return the arms' seconds and device-hours, and the settings that were measured."""
    table = plain_table()
    table.add_column("arm", overflow="fold")
    for name in ("step", "tokens/s", "scoring", "trial", "memory", "trials", "hours"):
        table.add_column(name, justify="right", no_wrap=True)
    for arm in estimate.arms:
        peak = arm.peak_bytes
        confirmation = f" + {arm.trainings}" if arm.trainings else ""
        table.add_row(
            arm.arm,
            f"{formatting.number(arm.step_seconds)} s",
            formatting.count(arm.tokens_per_second),
            formatting.duration(arm.scoring_seconds),
            formatting.duration(arm.trial_seconds),
            formatting.NOTHING if peak is None else f"{peak / 2**30:.2g} GiB",
            f"{arm.trials}{confirmation}",
            f"{arm.device_hours:.2g}",
        )
    return [heading("How long it takes, by arm"), table, bulleted(_notes(estimate))]


def _notes(estimate: DurationEstimate) -> Iterator[str]:
    if any(arm.trainings for arm in estimate.arms):
        yield (
            "Trials: those of the search + confirmation runs. Hours are"
            " device-hours; memory is the most that a trial took."
        )
    yield "Measured in a few steps of each arm, at its cheapest and its most expensive settings."
    for arm in estimate.arms:
        if arm.lightest == arm.heaviest:
            continue
        low, high = map(formatting.duration, arm.trial_range)
        light, heavy = map(formatting.settings, (arm.lightest, arm.heaviest))
        yield f"{arm.arm}: a trial takes {low} at {light}, and {high} at {heavy}."
