"""The plots of a report, as matplotlib figures without global state.

Every figure has an opaque, nearly white ground, so that it reads on light and on dark pages. An arm
has the same colour and marker in all of them; the colours are Okabe and Ito's, which people with
colour blindness can tell apart.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from sweeper.analysis.comparison import ArmSummary, Comparison, scored_trials
from sweeper.analysis.importance import Importance
from sweeper.records import StudyRecord, TrialRecord
from sweeper.reporting import formatting
from sweeper.reporting.plot_style import (
    FAINT_INK,
    GROUND,
    INK,
    empty_figure,
    legend,
    looks_of,
    new_figure,
    place_labels,
    reference_lines,
    score_label,
    spread,
    styled,
    thinned,
)

MOST_ON_MAP = 400
"""Trials on the map, an even selection by score with the best: there they hide each other."""


def progress_plot(comparison: Comparison) -> Figure | None:
    """Score by trial, with each arm's best so far; None when nothing was scored."""
    arms = [arm for arm in comparison.arms if arm.series]
    if not arms:
        return None
    figure, axes = new_figure(7.6, 4.2)
    looks = looks_of(comparison)
    last = max(point.number for arm in arms for point in arm.series)
    for arm in arms:
        look = looks[arm.name]
        points = thinned(arm.series)
        numbers = [point.number for point in points]
        axes.plot(
            numbers,
            [point.score for point in points],
            look.marker,
            color=look.colour,
            alpha=0.35 if last < 100 else 0.15,
            markersize=4.5,
            markeredgewidth=0,
        )
        # The line goes on to the right end: the best so far is what the arm would be judged by.
        best = [point.best for point in points]
        axes.step(
            [*numbers, last],
            [*best, best[-1]],
            where="post",
            color=look.colour,
            linestyle=look.line,
            linewidth=1.9,
            marker=look.marker if len(numbers) == 1 else None,
            markevery=[0] if len(numbers) == 1 else None,
            markersize=7,
            label=formatting.arm_name(arm),
        )
    reference_lines(axes, comparison)
    axes.set_xlabel("trial of the arm")
    axes.set_ylabel(score_label(comparison))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    if last == 0:
        axes.set_xlim(-0.5, 0.5)
    legend(axes)
    return figure


def importance_plot(importances: Sequence[Importance], comparison: Comparison) -> Figure | None:
    """The importance of each setting, a panel for each arm; None without any."""
    if not importances:
        return None
    bars = max(len(one.values) + len(one.conditional) for one in importances)
    columns = min(len(importances), 2)
    rows = math.ceil(len(importances) / columns)
    figure = empty_figure(3.8 * columns + 0.6, (0.36 * bars + 1.3) * rows)
    looks = looks_of(comparison)
    for index, one in enumerate(importances):
        axes = styled(figure.add_subplot(rows, columns, index + 1))
        entries = [(name, share, "") for name, share in one.values.items()]
        entries += [(name, share, "////") for name, share in one.conditional.items()]
        for place, (_, share, hatch) in enumerate(entries):
            conditional = bool(hatch)
            axes.barh(
                place,
                share,
                height=0.62,
                color=GROUND if conditional else looks[one.arm].colour,
                edgecolor=looks[one.arm].colour,
                hatch=hatch,
                linewidth=0.9,
            )
            text = formatting.percent(share)
            text += f", in {one.conditional_trials} trials" if conditional else ""
            axes.annotate(
                text,
                (share, place),
                xytext=(4, 0),
                textcoords="offset points",
                va="center",
                fontsize=8,
                color=INK,
            )
        axes.set_yticks(range(len(entries)), [name for name, _, _ in entries])
        axes.set_ylim(bars - 0.5, -0.6)
        axes.set_xlim(0, 1.32)
        axes.set_xticks([0, 0.5, 1], ["0", "50 %", "100 %"])
        axes.grid(visible=False, axis="y")
        axes.set_title(f"{one.arm} ({one.trials} trials)", fontsize=10, color=INK, loc="left")
    return figure


def map_plot(record: StudyRecord, comparison: Comparison) -> Figure | None:
    """``lmbda`` and ``beta`` of the GKD trials, coloured by score.

    None unless two GKD trials with a score differ in one of the two.
    """
    scored, failed = _map_points(record)
    if len({position for _, position, _ in scored}) < 2:
        return None
    figure, axes = new_figure(6.4, 4.4)
    placed = spread([*(position for _, position, _ in scored), *failed])
    small = min(1.0, 80 / len(placed))
    if failed:
        x, y = zip(*placed[len(scored) :], strict=True)
        axes.scatter(x, y, marker="x", color=FAINT_INK, s=34, linewidth=1.2, label="failed")
    values = [score for _, _, score in scored]
    limits = Normalize(min(values), max(values))
    colours = "viridis" if record.higher_is_better else "viridis_r"
    shown: Any = None
    for searched, marker, size, label in (
        (True, "o", 16 + 46 * small, "searched"),
        (False, "*", 230, "fixed settings"),
    ):
        group = [
            (place, score)
            for (is_searched, _, score), place in zip(scored, placed, strict=False)
            if is_searched is searched
        ]
        if not group:
            continue
        group.reverse()  # the best are drawn last
        shown = axes.scatter(
            [place[0] for place, _ in group],
            [place[1] for place, _ in group],
            c=[score for _, score in group],
            marker=marker,
            s=size,
            cmap=colours,
            norm=limits,
            edgecolors=INK,
            linewidths=0.6,
            zorder=3 if searched else 4,
        )
        # The legend's marker has no score, so it gets no colour.
        axes.scatter([], [], marker=marker, s=size, c="none", edgecolors=INK, label=label)
    bar = figure.colorbar(shown, ax=axes, pad=0.02)
    bar.set_label(score_label(comparison), color=INK)
    bar.ax.tick_params(colors=INK, labelsize=8)
    bar.outline.set_visible(False)
    axes.set_xlabel("lmbda: share of on-policy sequences")
    axes.set_ylabel("beta: 0 = KL(teacher‖student), 1 = KL(student‖teacher)", fontsize=8.5)
    axes.set_xlim(-0.1, 1.1)
    axes.set_ylim(-0.1, 1.1)
    lmbdas, betas = zip(*{position for _, position, _ in scored}, strict=True)
    for axis, found in ((axes.xaxis, set(lmbdas)), (axes.yaxis, set(betas))):
        # A few distinct values are choices, or steps: marking them says more than even ticks do.
        if len(found) <= 6:
            axis.set_ticks(sorted(found))
    legend(axes, columns=3)
    return figure


def cost_plot(record: StudyRecord, comparison: Comparison) -> Figure | None:
    """Score against the device-seconds of one trial; None when nothing was scored."""
    looks = looks_of(comparison)
    figure, axes = new_figure(7.6, 4.4)
    best: list[tuple[ArmSummary, float, float]] = []
    seconds: list[float] = []
    for arm in record.arms:
        summary, look = comparison.arm(arm.name), looks[arm.name]
        points = [
            (trial.outcome.cost.device_seconds, score.score)
            for trial, score in scored_trials(arm)
            if trial.outcome and math.isfinite(trial.outcome.cost.device_seconds)
        ]
        if not points or summary.best is None or summary.best.outcome is None:
            continue
        seconds += [cost for cost, _ in points]
        x, y = zip(*thinned(points), strict=True)
        axes.scatter(x, y, s=18, color=look.colour, marker=look.marker, alpha=0.3, linewidths=0)
        top = summary.best.outcome
        assert summary.best_score is not None
        best.append((summary, top.cost.device_seconds, summary.best_score.score))
    if not best:
        return None
    for summary, cost, score in best:
        look = looks[summary.name]
        axes.scatter(
            [cost],
            [score],
            s=120,
            color=look.colour,
            marker=look.marker,
            edgecolors=INK,
            linewidths=0.9,
            zorder=4,
        )
    if min(seconds) > 0 and max(seconds) / min(seconds) > 20:
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
        axes.xaxis.set_minor_locator(NullLocator())
    else:
        axes.set_xlim(0, max(seconds) * 1.12 or 1)
    reference_lines(axes, comparison)
    axes.set_xlabel("device-seconds of one trial, training and evaluation")
    axes.set_ylabel(score_label(comparison))
    place_labels(figure, axes, [(arm.name, x, y) for arm, x, y in best])
    return figure


_MapPoint = tuple[bool, tuple[float, float], float]


def _map_points(record: StudyRecord) -> tuple[list[_MapPoint], list[tuple[float, float]]]:
    """The scored GKD trials (whether their arm searches, position, score) and the failed ones.

    The best come first: they stand where their values are, and what they cover is moved aside.
    """
    sign = -1 if record.higher_is_better else 1
    searched: list[_MapPoint] = []
    fixed: list[_MapPoint] = []
    failed = []
    for arm in record.arms:
        if arm.method != "gkd":
            continue
        for trial, score in scored_trials(arm):
            if position := _position(trial):
                group = searched if arm.search else fixed
                group.append((bool(arm.search), position, score.score))
        places = (_position(trial) for trial in arm.trials if trial.state == "failed")
        failed += [place for place in places if place]
    for group in (searched, fixed):
        group.sort(key=lambda one: sign * one[2])
    kept = [*thinned(fixed, MOST_ON_MAP), *thinned(searched, MOST_ON_MAP)]
    return kept, thinned(failed, MOST_ON_MAP)


def _position(trial: TrialRecord) -> tuple[float, float] | None:
    """``lmbda`` and ``beta``, sampled or fixed."""
    found = []
    for name in ("lmbda", "beta"):
        value = trial.params.get(name, trial.settings.get(name))
        if not isinstance(value, int | float):
            return None
        found.append(float(value))
    return found[0], found[1]
