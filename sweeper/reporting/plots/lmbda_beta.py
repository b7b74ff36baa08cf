"""Scatter of the GKD trials over ``lmbda`` and ``beta``, coloured by score."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from sweeper.analysis.comparison import Comparison, scored_trials
from sweeper.records.study_record import StudyRecord, TrialRecord
from sweeper.reporting.plots.style import (
    FAINT_INK,
    INK,
    legend,
    new_figure,
    score_label,
    spread,
    thinned,
)
from sweeper.reporting.text import formatting

MOST_MARKS = 400
"""Most trials drawn, an even selection by score with the best: more would hide each other."""


class _Mark(NamedTuple):
    """Scored trial in the plot."""

    searched: bool
    position: tuple[float, float]
    score: float


def lmbda_beta_plot(record: StudyRecord, comparison: Comparison) -> Figure | None:
    """Draw the scored GKD trials by ``lmbda`` and ``beta``; None unless two of them differ."""
    scored, failed = _marks(record)
    if len({mark.position for mark in scored}) < 2:
        return None
    figure, axes = new_figure(6.4, 4.4)
    values = [mark.score for mark in scored]
    limits = Normalize(min(values), max(values))
    colours = ScalarMappable(limits, "viridis" if record.higher_is_better else "viridis_r")
    placed = _draw_marks(axes, scored, failed, colours)
    best = (max if record.higher_is_better else min)(values)
    axes.scatter(
        *placed[values.index(best)],
        s=330,
        facecolors="none",
        edgecolors=INK,
        linewidths=1.1,
        zorder=5,
        label=f"best: {best:.{formatting.comparison_digits(comparison)}f}",
    )
    bar = figure.colorbar(colours, ax=axes, pad=0.02)
    bar.set_label(score_label(comparison), color=INK)
    bar.ax.tick_params(colors=INK, labelsize=8)
    bar.outline.set_visible(False)
    legend(axes)
    return figure


def _draw_marks(
    axes: Axes,
    scored: Sequence[_Mark],
    failed: Sequence[tuple[float, float]],
    colours: ScalarMappable,
) -> list[tuple[float, float]]:
    """Draw the trials; return the positions at which the scored ones were drawn."""
    placed = spread([*(mark.position for mark in scored), *failed])
    small = min(1.0, 80 / max(len(placed), 1))
    if failed:
        x, y = zip(*placed[len(scored) :], strict=True)
        axes.scatter(x, y, marker="x", color=FAINT_INK, s=34, linewidth=1.2, label="failed")
    for searched, marker, size, label in (
        (True, "o", 16 + 46 * small, "searched"),
        (False, "*", 230, "fixed settings"),
    ):
        group = [
            (place, mark.score)
            for mark, place in zip(scored, placed, strict=False)
            if mark.searched is searched
        ]
        if not group:
            continue
        group.reverse()  # the best are drawn last
        axes.scatter(
            [place[0] for place, _ in group],
            [place[1] for place, _ in group],
            c=colours.to_rgba(np.array([score for _, score in group])),
            marker=marker,
            s=size,
            edgecolors=INK,
            linewidths=0.6,
            zorder=3 if searched else 4,
        )
        # The legend's marker has no score, so it gets no colour.
        axes.scatter([], [], marker=marker, s=size, c="none", edgecolors=INK, label=label)
    axes.set_xlabel("lmbda: share of on-policy sequences")
    axes.set_ylabel("beta: 0 is KL(teacher‖student),\n1 is KL(student‖teacher)")
    axes.set_xlim(-0.1, 1.1)
    axes.set_ylim(-0.1, 1.1)
    positions = [mark.position for mark in scored]
    for axis, index, apart in ((axes.xaxis, 0, 0.12), (axes.yaxis, 1, 0.05)):
        ticks = sorted({position[index] for position in positions})
        # A few distinct values are choices or steps: they are marked instead of even ticks, where
        # there is room for their labels.
        if 0 < len(ticks) <= 6 and all(b - a >= apart for a, b in pairwise(ticks)):
            axis.set_ticks(ticks)
    return placed[: len(scored)]


def _marks(record: StudyRecord) -> tuple[list[_Mark], list[tuple[float, float]]]:
    """Return the scored GKD trials, and the positions of the failed ones.

    The best come first: they keep their position, and trials that they cover are moved aside.
    """
    sign = -1 if record.higher_is_better else 1
    scored: list[_Mark] = []
    failed = []
    for arm in record.arms:
        if arm.method != "gkd":
            continue
        for trial, score in scored_trials(arm):
            if position := _position(trial):
                scored.append(_Mark(bool(arm.search), position, score.score))
        places = (_position(trial) for trial in arm.trials if trial.state == "failed")
        failed += [place for place in places if place]
    scored.sort(key=lambda mark: sign * mark.score)
    groups = ([mark for mark in scored if mark.searched is searched] for searched in (False, True))
    kept = [mark for group in groups for mark in thinned(group, MOST_MARKS)]
    return kept, thinned(failed, MOST_MARKS)


def _position(trial: TrialRecord) -> tuple[float, float] | None:
    """Return ``lmbda`` and ``beta``, sampled or fixed."""
    lmbda, beta = (trial.params.get(n, trial.settings.get(n)) for n in ("lmbda", "beta"))
    if not isinstance(lmbda, int | float) or not isinstance(beta, int | float):
        return None
    return float(lmbda), float(beta)
