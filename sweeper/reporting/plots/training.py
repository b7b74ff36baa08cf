"""Plots of how winners learned."""

from __future__ import annotations

import math
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from sweeper.analysis.comparison import Comparison
from sweeper.analysis.learning_curves import LearningCurve
from sweeper.reporting.plots.style import (
    INK,
    ArmStyle,
    arm_styles,
    empty_figure,
    legend,
    log_ticks,
    new_figure,
    styled,
)

MOST_TICKS = 8
"""Most steps that are all marked on an axis."""
_LOG_FROM = 8.0
"""Ratio of the largest value to the smallest from which an axis is logarithmic."""


def learning_plot(comparison: Comparison, curves: Sequence[LearningCurve]) -> Figure | None:
    """Draw the winners' training, mean and range over seeds; return None without curves.

    Distances from the teacher share one pair of axes; losses, which do not compare, have one each.
    """
    if not curves:
        return None
    looks = arm_styles(comparison)
    if curves[0].measure == "loss":
        return _losses(curves, looks)
    figure, axes = new_figure(7.6, 4.2)
    for curve in curves:
        _draw(axes, curve, looks[curve.arm])
    values = [value for curve in curves for step in curve.steps for value in (step.low, step.high)]
    if min(values) > 0 and max(values) > _LOG_FROM * min(values):
        axes.set_yscale("log")
        log_ticks(axes.yaxis, lambda value, _: f"{value:g}")
    else:
        axes.set_ylim(bottom=0)
    axes.set_xlabel("optimiser steps")
    axes.set_ylabel("distance from the teacher on fixed text\n(Jensen–Shannon, nats a token)")
    measured = sorted({step.step for curve in curves for step in curve.steps})
    if len(measured) <= MOST_TICKS:
        axes.set_xticks(measured)
    else:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    legend(axes)
    return figure


def _losses(curves: Sequence[LearningCurve], looks: dict[str, ArmStyle]) -> Figure:
    columns = min(len(curves), 3)
    rows = math.ceil(len(curves) / columns)
    figure = empty_figure(3.1 * columns + 0.5, 2.4 * rows + 0.5)
    for place, curve in enumerate(curves):
        axes = styled(figure.add_subplot(rows, columns, place + 1))
        _draw(axes, curve, looks[curve.arm])
        axes.set_title(curve.arm, fontsize=10, color=INK, loc="left")
        axes.xaxis.set_major_locator(MaxNLocator(4, integer=True, min_n_ticks=1))
        axes.yaxis.set_major_locator(MaxNLocator(4))
    figure.supxlabel("optimiser steps", fontsize=9, color=INK)
    figure.supylabel("training loss (each arm's own)", fontsize=9, color=INK)
    return figure


def _draw(axes: Axes, curve: LearningCurve, look: ArmStyle) -> None:
    points = ((step.step, step.low, step.mean, step.high) for step in curve.steps)
    steps, low, mean, high = zip(*points, strict=True)
    axes.fill_between(steps, low, high, color=look.colour, alpha=0.12, linewidth=0)
    axes.plot(
        steps,
        mean,
        color=look.colour,
        linestyle=look.line,
        linewidth=1.9,
        marker=look.marker if len(steps) <= 12 else None,
        markersize=4.5,
        label=curve.arm,
    )
