"""The map of the GKD settings: trials by ``lmbda`` and ``beta``, on the surface fitted to them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from numpy.typing import NDArray

from sweeper.analysis.comparison import Comparison, scored_trials
from sweeper.analysis.importance.surface import Surface
from sweeper.records.study_record import StudyRecord, TrialRecord
from sweeper.reporting.plots.labels import place_labels
from sweeper.reporting.plots.style import (
    FAINT_INK,
    INK,
    empty_figure,
    legend,
    score_label,
    spread,
    styled,
    thinned,
)
from sweeper.reporting.text import formatting

MOST_NAMED = 12
"""Trials on the map whose scores are all written beside them; of more, only the best one's."""
MOST_ON_MAP = 400
"""Trials on the map, an even selection by score with the best: there they hide each other."""
MOST_MAPS = 4
"""Surfaces that are drawn, each on a map of its own."""
_OPACITY = 0.75
"""Of a surface where a trial is: marks of the same colour stand out by their edge."""


@dataclass(frozen=True)
class _Mark:
    """A trial on the map."""

    arm: str
    searched: bool
    """Whether the arm searches."""
    position: tuple[float, float]
    score: float


def map_plot(
    record: StudyRecord, comparison: Comparison, surfaces: Sequence[Surface] = ()
) -> Figure | None:
    """``lmbda`` and ``beta`` of the GKD trials, coloured by score, on the surfaces fitted to them.

    Several surfaces have a map each, with the trials of their own arm and of all arms without one.
    None unless two GKD trials with a score differ in one of the two.
    """
    scored, failed = _marks(record)
    if len({mark.position for mark in scored}) < 2:
        return None
    surfaces = surfaces[:MOST_MAPS]
    columns = min(max(len(surfaces), 1), 2)
    rows = math.ceil(max(len(surfaces), 1) / columns)
    figure = empty_figure(6.4 if columns == 1 else 10.4, 4.4 * rows)
    values = [mark.score for mark in scored]
    limits = Normalize(min(values), max(values))
    colours = ScalarMappable(limits, "viridis" if record.higher_is_better else "viridis_r")
    owners = {surface.arm for surface in surfaces}
    maps = []
    for index, surface in enumerate(surfaces or [None]):
        axes = styled(figure.add_subplot(rows, columns, index + 1))
        others = owners - {surface.arm} if surface else owners
        marks = [mark for mark in scored if mark.arm not in others]
        if surface is not None:
            _draw_surface(axes, surface, colours)
            if len(surfaces) > 1:
                axes.set_title(surface.arm, fontsize=10, color=INK, loc="left")
        crosses = [position for arm, position in failed if arm not in others]
        maps.append((axes, marks, _draw_marks(axes, marks, crosses, colours)))
    bar = figure.colorbar(colours, ax=[axes for axes, _, _ in maps], pad=0.02)
    bar.set_label(score_label(comparison), color=INK)
    bar.ax.tick_params(colors=INK, labelsize=8)
    bar.outline.set_visible(False)
    legend(maps[0][0], columns=3)
    digits = formatting.comparison_digits(comparison)
    for axes, marks, placed in maps:
        best_first = sorted(
            zip(marks, placed, strict=True),
            key=lambda one: one[0].score,
            reverse=record.higher_is_better,
        )
        texts = [(f"{mark.score:.{digits}f}", *place) for mark, place in best_first]
        if len(texts) > MOST_NAMED:
            texts = [(f"best: {texts[0][0]}", *texts[0][1:])]
        place_labels(axes, texts, size=8, weight="normal")
    return figure


def _draw_surface(axes: Axes, surface: Surface, colours: ScalarMappable) -> None:
    lmbdas, columns = _grid(surface.lmbdas)
    betas, rows = _grid(surface.betas)
    shown = colours.to_rgba(np.array(surface.scores)[rows][:, columns])
    opacity = np.array(surface.support)[rows][:, columns] * _OPACITY
    # Between the bands of single values there is nothing.
    opacity[rows < 0] = 0
    opacity[:, columns < 0] = 0
    shown[..., 3] = opacity
    axes.pcolormesh(lmbdas, betas, shown, linewidth=0, zorder=0.6)


def _grid(
    bands: Sequence[tuple[float, float]],
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """The edges of cells that cover all bands, and each cell's band; -1 between two bands."""
    edges, cells = [bands[0][0]], []
    for index, (low, high) in enumerate(bands):
        if low > edges[-1] + 1e-9:
            edges.append(low)
            cells.append(-1)
        edges.append(high)
        cells.append(index)
    return np.array(edges), np.array(cells)


def _draw_marks(
    axes: Axes,
    scored: Sequence[_Mark],
    failed: Sequence[tuple[float, float]],
    colours: ScalarMappable,
) -> list[tuple[float, float]]:
    """Draw the trials; returns where the scored ones came to stand."""
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
        found = sorted({position[index] for position in positions})
        # A few distinct values are choices, or steps: marking them says more than even ticks do,
        # where there is room for their labels.
        if 0 < len(found) <= 6 and all(b - a >= apart for a, b in pairwise(found)):
            axis.set_ticks(found)
    return placed[: len(scored)]


def _marks(record: StudyRecord) -> tuple[list[_Mark], list[tuple[str, tuple[float, float]]]]:
    """The scored GKD trials, and where the failed ones of each arm are.

    The best come first: they stand where their values are, and what they cover is moved aside.
    """
    sign = -1 if record.higher_is_better else 1
    searched: list[_Mark] = []
    fixed: list[_Mark] = []
    failed = []
    for arm in record.arms:
        if arm.method != "gkd":
            continue
        for trial, score in scored_trials(arm):
            if position := _position(trial):
                group = searched if arm.search else fixed
                group.append(_Mark(arm.name, bool(arm.search), position, score.score))
        places = (_position(trial) for trial in arm.trials if trial.state == "failed")
        failed += [(arm.name, place) for place in places if place]
    for group in (searched, fixed):
        group.sort(key=lambda mark: sign * mark.score)
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
