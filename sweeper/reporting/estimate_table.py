"""How long a study takes, by arm, in the terminal."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import RenderableType

from sweeper.analysis.pace import ArmTime, Estimate
from sweeper.config.base import Scalar
from sweeper.reporting import formatting
from sweeper.reporting.console import bulleted, heading, plain_table


def estimate_view(found: Estimate) -> list[RenderableType]:
    """The arms' seconds and device-hours, and what they were measured at."""
    table = plain_table()
    table.add_column("arm", overflow="fold")
    for name in ("step", "tokens/s", "scoring", "trial", "trials", "device-hours"):
        table.add_column(name, justify="right", no_wrap=True)
    for arm in found.arms:
        winners = f" + {arm.trainings}" if arm.trainings else ""
        table.add_row(
            arm.arm,
            f"{formatting.number(arm.step_seconds)} s",
            formatting.count(arm.tokens_per_second),
            formatting.duration(arm.scoring_seconds),
            formatting.duration(arm.trial_seconds),
            f"{arm.trials}{winners}",
            f"{arm.device_hours:.2g}",
        )
    return [heading("How long it takes, by arm"), table, bulleted(_notes(found))]


def _notes(found: Estimate) -> Iterator[str]:
    if any(arm.trainings for arm in found.arms):
        yield "Trials: those of the search + trainings of winners with new seeds."
    if found.basis == "records":
        yield f"Measured in {found.measured} trials of the study."
        return
    yield (
        "Measured in a few steps of each arm, at what costs least and most of what is searched;"
        " of everything else, in the middle."
    )
    for arm in found.arms:
        light, heavy = _differing(arm)
        if light or heavy:
            low, high = map(formatting.duration, arm.trial_range)
            yield (
                f"{arm.arm}: {formatting.settings(light)}, and {formatting.settings(heavy)}:"
                f" a trial of {low} to {high}."
            )


def _differing(arm: ArmTime) -> tuple[dict[str, Scalar], dict[str, Scalar]]:
    """The settings in which the two trials differ that were measured."""
    light = {k: v for k, v in arm.lightest.items() if arm.heaviest.get(k) != v}
    heavy = {k: v for k, v in arm.heaviest.items() if arm.lightest.get(k) != v}
    return light, heavy
