"""Plot of rollouts by optimiser step."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from sweeper.analysis.comparison import Comparison
from sweeper.analysis.rollout_stats import RolloutCurve, RolloutMeasure
from sweeper.reporting.plots.style import (
    INK,
    ArmStyle,
    arm_styles,
    empty_figure,
    legend,
    styled,
)

_PANELS: tuple[tuple[RolloutMeasure, str], ...] = (
    ("rollout_length", "length (tokens)"),
    ("truncated_share", "share cut at max_new_tokens"),
    ("ended_share", "share ended by an end token"),
    ("repetition", "share of repeated 4-grams"),
    ("student_entropy", "entropy (nats a token)"),
    ("teacher_logprob", "teacher's log p of rollouts (nats)"),
    ("rollout_logprob_diff", "log p, engine to training (nats)"),
)
_SHARES = ("truncated_share", "ended_share", "repetition")


def rollout_plot(comparison: Comparison, curves: Sequence[RolloutCurve]) -> Figure | None:
    """Draw what is known of rollouts, one panel each; return None without curves.

    Lines are winners, with their range over seeds, or best trials; dashed lines are trials that
    collapsed.
    """
    panels = [panel for panel in _PANELS if any(panel[0] in c.measures for c in curves)]
    if not panels:
        return None
    looks, named = arm_styles(comparison), set()
    columns = min(len(panels), 3)
    rows = -(-len(panels) // columns)
    figure = empty_figure(2.9 * columns + 0.4, 2.3 * rows + 0.6)
    for place, (measure, title) in enumerate(panels):
        axes = styled(figure.add_subplot(rows, columns, place + 1))
        for curve in curves:
            name = f"{curve.arm}, collapsed" if curve.collapsed else curve.arm
            look = looks[curve.arm]
            _draw(axes, curve, measure, look, label=None if name in named else name)
            named.add(name)
            if measure == "student_entropy":
                _draw(axes, curve, "teacher_entropy", look, width=0.7)
        axes.set_title(title, fontsize=9, color=INK, loc="left")
        axes.xaxis.set_major_locator(MaxNLocator(4, integer=True, min_n_ticks=1))
        axes.yaxis.set_major_locator(MaxNLocator(4))
        if measure in _SHARES:
            axes.set_ylim(-0.03, 1.03)
            axes.set_yticks((0.0, 0.25, 0.5, 0.75, 1.0))
        elif measure != "teacher_logprob":
            axes.set_ylim(bottom=0)
        if place >= len(panels) - columns:
            axes.set_xlabel("optimiser steps", fontsize=9)
    legend(figure.axes[0])
    return figure


def _draw(
    axes: Axes,
    curve: RolloutCurve,
    measure: RolloutMeasure,
    look: ArmStyle,
    *,
    label: str | None = None,
    width: float = 1.8,
) -> None:
    points = ((s.step, s.low, s.mean, s.high) for s in curve.measures.get(measure, ()))
    if not (columns := list(zip(*points, strict=True))):
        return
    steps, low, mean, high = columns
    if not curve.collapsed:
        axes.fill_between(steps, low, high, color=look.colour, alpha=0.12, linewidth=0)
    axes.plot(
        steps,
        mean,
        color=look.colour,
        linestyle="--" if curve.collapsed else look.line,
        linewidth=min(width, 1.2) if curve.collapsed else width,
        label=label,
    )
