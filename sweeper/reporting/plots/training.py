"""The plots of what GKD trials sampled, and of how winners learned."""

from __future__ import annotations

import math
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import (
    FuncFormatter,
    LogLocator,
    MaxNLocator,
    NullLocator,
    PercentFormatter,
)

from sweeper.analysis.comparison import Comparison
from sweeper.analysis.learning_curves import LearningCurve
from sweeper.analysis.rollout_stats import QUANTITIES, Quantity, RolloutStats
from sweeper.reporting.plots import labels
from sweeper.reporting.plots.labels import EndLabel, end_labels
from sweeper.reporting.plots.style import (
    FAINT_INK,
    INK,
    ArmStyle,
    arm_styles,
    empty_figure,
    legend,
    new_figure,
    score_label,
    styled,
    thinned,
)
from sweeper.reporting.text.training import QUANTITY_LABELS, correlation_title

FEWEST_TRIALS = 3
"""Below this there is nothing to see."""
MOST_TICKS = 8
"""Steps that are all marked on an axis."""
_LOG_FROM = 8.0
"""Times the smallest value that the largest is, from which an axis is logarithmic."""


def rollout_plot(comparison: Comparison, found: RolloutStats | None) -> Figure | None:
    """Score against what each GKD trial sampled; None with too few of them."""
    if found is None or len(found.trials) < FEWEST_TRIALS:
        return None
    figure = empty_figure(9.6, 3.9)
    looks = arm_styles(comparison)
    first: Axes | None = None
    for place, quantity in enumerate(QUANTITIES):
        axes = styled(figure.add_subplot(1, len(QUANTITIES), place + 1, sharey=first))
        for name in dict.fromkeys(trial.arm for trial in found.trials):
            points = [
                (value, trial.score)
                for trial in found.trials
                if trial.arm == name and (value := trial.value(quantity)) is not None
            ]
            shown, look = thinned(points), looks[name]
            axes.scatter(
                [x for x, _ in shown],
                [y for _, y in shown],
                s=44 if len(found.trials) <= 60 else 18,
                color=look.colour,
                marker=look.marker,
                edgecolors=INK,
                linewidths=0.5,
                alpha=0.9 if len(found.trials) <= 60 else 0.5,
                zorder=3,
                label=name,
            )
        _scale(axes, quantity, found)
        axes.set_xlabel(QUANTITY_LABELS[quantity])
        trend = next((one for one in found.trends if one.quantity == quantity), None)
        axes.set_title(correlation_title(trend), fontsize=9, color=INK, loc="left")
        if first is None:
            first = axes
            axes.set_ylabel(score_label(comparison))
        else:
            axes.tick_params(labelleft=False)
    if first is not None and len({trial.arm for trial in found.trials}) > 1:
        legend(first)
    return figure


def _scale(axes: Axes, quantity: Quantity, found: RolloutStats) -> None:
    if quantity != "length":
        axes.set_xlim(-0.05, 1.05)
        axes.set_xticks([0, 0.25, 0.5, 0.75, 1])
        axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0, symbol=" %"))
        return
    if found.reference_length is not None:
        axes.axvline(found.reference_length, color=FAINT_INK, linewidth=1.1, dashes=(6, 2))
        axes.annotate(
            "references",
            (found.reference_length, 0.02),
            xycoords=("data", "axes fraction"),
            xytext=(3, 0),
            textcoords="offset points",
            fontsize=8,
            color=FAINT_INK,
            rotation=90,
        )
    axes.margins(x=0.12)


def learning_plot(comparison: Comparison, curves: Sequence[LearningCurve]) -> Figure | None:
    """The winners' training, mean and range over seeds; None before two points are known.

    One pair of axes for all arms by the yardstick; by losses, which do not compare, one for each.
    """
    if not curves:
        return None
    looks = arm_styles(comparison)
    if curves[0].measure == "loss":
        return _losses(curves, looks)
    figure, axes = new_figure(7.6, 4.2)
    names = []
    for curve in curves:
        look = looks[curve.arm]
        _draw(axes, curve, look)
        names.append(EndLabel(curve.arm, curve.steps[-1].mean, look.colour, look.line))
    values = [value for curve in curves for step in curve.steps for value in (step.low, step.high)]
    if min(values) > 0 and max(values) > _LOG_FROM * min(values):
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.yaxis.set_minor_locator(NullLocator())
    else:
        axes.set_ylim(bottom=0)
    axes.set_xlabel("optimiser steps")
    axes.set_ylabel("distance from the teacher on fixed text\n(Jensen–Shannon, nats a token)")
    measured = sorted({step.step for curve in curves for step in curve.steps})
    if len(measured) <= MOST_TICKS:
        axes.set_xticks(measured)
    else:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    if labels.fit([name.text for name in names]):
        end_labels(axes, names)
    else:
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
    steps = [step.step for step in curve.steps]
    axes.fill_between(
        steps,
        [step.low for step in curve.steps],
        [step.high for step in curve.steps],
        color=look.colour,
        alpha=0.12,
        linewidth=0,
    )
    axes.plot(
        steps,
        [step.mean for step in curve.steps],
        color=look.colour,
        linestyle=look.line,
        linewidth=1.9,
        marker=look.marker if len(steps) <= 12 else None,
        markersize=4.5,
        label=curve.arm,
    )
