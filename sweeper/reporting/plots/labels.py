"""Names beside what they name: at the ends of lines and beside points, out of each other's way."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import PathCollection
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.text import Annotation, Text
from matplotlib.transforms import Bbox
from numpy.typing import NDArray

from sweeper.reporting.plots.style import FAINT_INK, GROUND, INK

MOST_LABELS = 16
"""Names at the right of a plot; more would not fit one above the other."""
LONGEST_LABEL = 34
"""Characters of such a name; longer ones would leave the plot no width."""

_LEADER = 16.0
"""Points between the end of a line and its name."""
_LEADER_STYLE: dict[str, Any] = {"patchA": None, "shrinkA": 2, "shrinkB": 0}
"""A leader goes up to its name's edge, and is not cut off where it comes near."""
_PLACES = (
    *((9, 0), (-9, 0), (0, 12), (0, -12)),
    *((side, turn * rise) for rise in range(12, 112, 11) for side in (9, -9) for turn in (1, -1)),
)
"""Where a name may stand: points right of and above what it names; the first ones are preferred."""

Boxes = NDArray[np.float64]
"""One row per box: left, bottom, right, top, in pixels."""


@dataclass(frozen=True)
class EndLabel:
    """The name of a line at the right end of the axes."""

    text: str
    value: float
    """The height of the line's end."""
    colour: str
    line: str = "-"
    width: float = 1.9
    ink: str = INK


def fit(names: Sequence[str]) -> bool:
    """Whether so many names of such length can stand at the right of a plot."""
    return len(names) <= MOST_LABELS and max(map(len, names), default=0) <= LONGEST_LABEL


def end_labels(axes: Axes, labels: Sequence[EndLabel]) -> None:
    """Name lines to the right of the axes, each as near to its end as the others allow.

    Called once everything is drawn that has a part in the axes' limits.
    """
    drawn = [
        axes.annotate(
            label.text,
            (1, label.value),
            xycoords=("axes fraction", "data"),
            xytext=(_LEADER, 0),
            textcoords="offset points",
            va="center",
            fontsize=8.5,
            color=label.ink,
            annotation_clip=False,
            arrowprops={
                "arrowstyle": "-",
                "color": label.colour,
                "linestyle": label.line,
                "linewidth": label.width,
                "relpos": (0, 0.5),
                **_LEADER_STYLE,
            },
        )
        for label in labels
    ]
    if not drawn:
        return
    figure = _lay_out(axes)
    heights = [axes.transData.transform((0, label.value))[1] for label in labels]
    line = max(_text_box(text).height for text in drawn) * 1.06
    frame = axes.get_window_extent()
    placed = apart(heights, line, frame.y0 + line / 2, frame.y1 - line / 2)
    for text, height, place in zip(drawn, heights, placed, strict=True):
        text.xyann = (_LEADER, (place - height) * 72 / figure.dpi)


def apart(positions: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Move positions within ``[low, high]`` as little as it takes to keep them ``gap`` apart.

    The least squares solution: an isotonic regression, by pooling adjacent violators. Where there
    is not room for all gaps they shrink.
    """
    count = len(positions)
    gap = min(gap, (high - low) / max(count - 1, 1))
    order = sorted(range(count), key=lambda index: positions[index])
    pools: list[tuple[float, int]] = []
    for rank, index in enumerate(order):
        pool = (positions[index] - rank * gap, 1)
        while pools and pools[-1][0] > pool[0]:
            mean, size = pools.pop()
            total = size + pool[1]
            pool = ((mean * size + pool[0] * pool[1]) / total, total)
        pools.append(pool)
    starts = [mean for mean, size in pools for _ in range(size)]
    placed = [0.0] * count
    for rank, index in enumerate(order):
        start = min(max(starts[rank], low), high - (count - 1) * gap)
        placed[index] = start + rank * gap
    return placed


def place_labels(
    axes: Axes, points: Sequence[tuple[str, float, float]], *, size: float = 9, weight: str = "bold"
) -> None:
    """Name each point beside it, where the name covers no other name, no line and no point.

    Where there is no such place, the one that covers least is taken: points rather than lines, and
    lines rather than names. Called once everything else is drawn.
    """
    pixels = _lay_out(axes).dpi / 72
    frame = axes.get_window_extent()
    lines, marks = _drawn(axes, pixels)
    places = axes.transData.transform([(x, y) for _, x, y in points] or np.empty((0, 2)))
    names = _around(places, 9)
    for (name, x, y), place in zip(points, places, strict=True):
        probe = axes.text(x, y, name, fontsize=size, fontweight=weight)
        extent = probe.get_window_extent()
        probe.remove()
        best: tuple[float, tuple[int, int], Bbox] | None = None
        for rank, (dx, dy) in enumerate(_PLACES):
            left = place[0] + dx * pixels - extent.width * (0.5 if dx == 0 else float(dx < 0))
            bottom = place[1] + dy * pixels - extent.height / 2
            box = Bbox.from_bounds(left, bottom, extent.width, extent.height)
            cost = 100 * _covered(box, names) + 10 * _covered(box, lines) + _covered(box, marks)
            outside = not (frame.x0 <= box.x0 and box.x1 <= frame.x1)
            outside |= not (frame.y0 <= box.y0 and box.y1 <= frame.y1)
            total = cost + 1000 * outside + rank / len(_PLACES)
            if best is None or total < best[0]:
                best = (total, (dx, dy), box)
        assert best is not None
        _, (dx, dy), box = best
        leader = {"arrowstyle": "-", "color": FAINT_INK, "linewidth": 0.7, **_LEADER_STYLE}
        axes.annotate(
            name,
            (x, y),
            xytext=(dx, dy),
            textcoords="offset points",
            ha="left" if dx > 0 else "right" if dx < 0 else "center",
            va="center",
            fontsize=size,
            color=INK,
            fontweight=weight,
            zorder=5,
            # Sets the letters off from the grid behind them.
            path_effects=[withStroke(linewidth=2.2, foreground=GROUND)],
            arrowprops={**leader, "relpos": (float(dx < 0), 0.5)} if dx and dy else None,
        )
        names = np.vstack([names, box.extents])


def _lay_out(axes: Axes) -> Figure:
    """Draw, which is what puts everything in its place."""
    figure = axes.get_figure(root=True)
    assert figure is not None
    FigureCanvasAgg(figure).draw()  # type: ignore[no-untyped-call]
    return figure


def _text_box(text: Annotation) -> Bbox:
    """Where the letters are, without the line to the point."""
    text.get_window_extent()  # moves the text to its place
    return Text.get_window_extent(text)


def _drawn(axes: Axes, pixels: float) -> tuple[Boxes, Boxes]:
    """The boxes of the axes' lines, segment by segment, and those of their marks.

    ``pixels`` is the number of them in a point.
    """
    lines, marks = [np.empty((0, 4))], [np.empty((0, 4))]
    for line in axes.lines:
        corners = line.get_transform().transform(line.get_xydata())
        if line.get_linestyle() == "None":
            marks.append(_around(corners, line.get_markersize() / 2 * pixels))
        else:
            low = np.minimum(corners[:-1], corners[1:]) - 2
            lines.append(np.hstack([low, np.maximum(corners[:-1], corners[1:]) + 2]))
    for collection in axes.collections:
        offsets = np.asarray(collection.get_offsets(), dtype=float)
        if isinstance(collection, PathCollection) and len(offsets):
            places = collection.get_offset_transform().transform(offsets)
            # A mark's size is its area.
            marks.append(_around(places, math.sqrt(max(collection.get_sizes())) / 2 * pixels))
    return np.vstack(lines), np.vstack(marks)


def _around(places: NDArray[np.float64], reach: float) -> Boxes:
    return np.hstack([places - reach, places + reach])


def _covered(box: Bbox, boxes: Boxes) -> int:
    """How many of ``boxes`` the box overlaps."""
    over = (boxes[:, 0] < box.x1) & (boxes[:, 2] > box.x0)
    return int((over & (boxes[:, 1] < box.y1) & (boxes[:, 3] > box.y0)).sum())
