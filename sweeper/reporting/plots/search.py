"""Plots of a search: scores by trial, and scores by cost."""

from __future__ import annotations

import math

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from sweeper.analysis.comparison import Comparison, scored_trials
from sweeper.records.study_record import StudyRecord
from sweeper.reporting.plots.style import (
    INK,
    arm_styles,
    legend,
    log_ticks,
    new_figure,
    reference_lines,
    score_label,
    thinned,
)
from sweeper.reporting.text import formatting


def progress_plot(comparison: Comparison) -> Figure | None:
    """Draw score by trial, with each arm's best so far; return None when nothing was scored."""
    arms = [arm for arm in comparison.arms if arm.series]
    if not arms:
        return None
    figure, axes = new_figure(7.6, 4.2)
    looks = arm_styles(comparison)
    last = max(point.number for arm in arms for point in arm.series)
    # Lines continue to the right end: the best so far is what the arm would be judged by.
    end = last + max(0.03 * last, 0.1)
    for arm in arms:
        look, name = looks[arm.name], formatting.arm_name(arm)
        points = thinned(arm.series)
        numbers = [point.number for point in points]
        if len(points) == 1:
            axes.plot(
                numbers,
                [points[0].score],
                look.marker,
                color=look.colour,
                markersize=8,
                markeredgecolor=INK,
                zorder=3,
                label=name,
            )
            continue
        axes.plot(
            numbers,
            [point.score for point in points],
            look.marker,
            color=look.colour,
            alpha=0.35 if last < 100 else 0.15,
            markersize=4.5,
            markeredgewidth=0,
        )
        best = [point.best for point in points]
        x, y = np.repeat([*numbers, end], 2)[1:-1], np.repeat(best, 2)
        axes.plot(x, y, color=look.colour, linestyle=look.line, linewidth=1.9, label=name)
    reference_lines(axes, comparison)
    axes.set_xlabel("trial of the arm")
    axes.set_ylabel(score_label(comparison))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.set_xlim((-0.5, 0.5) if last == 0 else (last - end, end))
    legend(axes)
    return figure


def cost_plot(record: StudyRecord, comparison: Comparison) -> Figure | None:
    """Draw score against device-seconds of a trial; return None when nothing was scored."""
    looks = arm_styles(comparison)
    figure, axes = new_figure(7.6, 4.4)
    best: list[tuple[str, float, float]] = []
    seconds: list[float] = []
    for arm in record.arms:
        summary, look = comparison.arm(arm.name), looks[arm.name]
        top = formatting.best_cost(summary)
        points = [
            (trial.outcome.cost.device_seconds, score.score)
            for trial, score in scored_trials(arm)
            if trial.outcome and math.isfinite(trial.outcome.cost.device_seconds)
        ]
        if not points or top is None:
            continue
        seconds += [cost for cost, _ in points]
        x, y = zip(*thinned(points), strict=True)
        axes.scatter(x, y, s=18, color=look.colour, marker=look.marker, alpha=0.3, linewidths=0)
        assert summary.best_score is not None
        best.append((arm.name, top.device_seconds, summary.best_score.score))
    if not best:
        return None
    for name, cost, score in best:
        look = looks[name]
        axes.scatter(
            [cost],
            [score],
            s=120,
            color=look.colour,
            marker=look.marker,
            edgecolors=INK,
            linewidths=0.9,
            zorder=4,
            label=name,
        )
    if min(seconds) > 0 and max(seconds) / min(seconds) > 20:
        axes.set_xscale("log")
        log_ticks(axes.xaxis, lambda value, _: f"{value:,g}")
    else:
        axes.set_xlim(0, max(seconds) * 1.12 or 1)
    reference_lines(axes, comparison)
    axes.set_xlabel("device-seconds of one trial, training and evaluation")
    axes.set_ylabel(score_label(comparison))
    legend(axes)
    return figure
