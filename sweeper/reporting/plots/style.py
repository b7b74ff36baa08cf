"""The look of all plots: ground, colours, markers and legends.

The opaque, nearly white ground reads on light and on dark pages. The colours are Okabe and Ito's,
which people with colour blindness can distinguish.
"""

from __future__ import annotations

import io
import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

from sweeper.analysis.comparison import Comparison

GROUND, INK, FAINT_INK, GRID = "#fbfbf9", "#24292f", "#6a727b", "#dfe2e5"
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#555555")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
MOST_POINTS = 1500
"""Most points drawn per arm; of more, an even selection."""

T = TypeVar("T")


@dataclass(frozen=True)
class ArmStyle:
    """Colour, marker and line of an arm."""

    colour: str
    marker: str
    line: str


def png(figure: Figure) -> bytes:
    """Render the figure as a PNG file."""
    buffer = io.BytesIO()
    FigureCanvasAgg(figure)
    figure.savefig(buffer, format="png", dpi=144, facecolor=GROUND)
    return buffer.getvalue()


def empty_figure(width: float, height: float) -> Figure:
    """Return an empty figure; its size is in inches."""
    figure = Figure(figsize=(width, height), layout="constrained", facecolor=GROUND)
    FigureCanvasAgg(figure)
    return figure


def new_figure(width: float, height: float) -> tuple[Figure, Axes]:
    """Return a figure with one pair of axes; its size is in inches."""
    figure = empty_figure(width, height)
    return figure, styled(figure.add_subplot())


def styled(axes: Axes) -> Axes:
    """Give axes the common look."""
    axes.set_facecolor(GROUND)
    axes.grid(visible=True, color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=INK, labelsize=9, length=0)
    for name, spine in axes.spines.items():
        spine.set_visible(name in ("left", "bottom"))
        spine.set_color(GRID)
    axes.xaxis.label.set_color(INK)
    axes.yaxis.label.set_color(INK)
    return axes


def arm_styles(comparison: Comparison) -> dict[str, ArmStyle]:
    """Return each arm's style; once the colours are used up, markers and lines change."""
    looks = {}
    for index, arm in enumerate(comparison.arms):
        turn = index // len(COLOURS)
        marker = MARKERS[(index + turn) % len(MARKERS)]
        line = ("-", "--", ":", "-.")[turn % 4]
        looks[arm.name] = ArmStyle(COLOURS[index % len(COLOURS)], marker, line)
    return looks


def score_label(comparison: Comparison) -> str:
    """Return the label of an axis of scores."""
    better = "" if comparison.higher_is_better else " (lower is better)"
    return f"selection score: {comparison.suite}{better}"


def reference_lines(axes: Axes, comparison: Comparison) -> None:
    """Draw the teacher and the starting student as lines, named in the legend."""
    for name, value, dashes in (
        ("teacher", comparison.teacher, (6, 2)),
        ("starting student", comparison.starting_student, (2, 2)),
    ):
        if value is not None:
            axes.axhline(
                value.score, color=FAINT_INK, linewidth=1.1, dashes=dashes, zorder=1, label=name
            )


def legend(axes: Axes) -> None:
    """Put the legend of ``axes`` below them; a long legend makes the figure higher."""
    figure = axes.get_figure(root=True)
    assert figure is not None
    handles, labels = axes.get_legend_handles_labels()
    longest = max(map(len, labels), default=0)
    columns = max(1, min(5, len(labels), 110 // (longest + 8)))
    figure.set_figheight(figure.get_figheight() + 0.19 * max(0, -(-len(labels) // columns) - 2))
    drawn = figure.legend(
        handles,
        labels,
        loc="outside lower center",
        ncols=columns,
        frameon=False,
        fontsize=8.5,
        labelcolor=INK,
        columnspacing=1.4,
        handletextpad=0.5,
    )
    for handle in drawn.legend_handles:
        if handle is not None:
            handle.set_alpha(1.0)


def log_ticks(axis: Axis, label: Callable[[float, float], str]) -> None:
    """Label 1, 2 and 5 of each power of ten of a logarithmic axis, without minor ticks."""
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(label)
    axis.set_minor_locator(NullLocator())


def thinned(points: Sequence[T], most: int = MOST_POINTS) -> list[T]:
    """Select points evenly, first and last included."""
    if len(points) <= most:
        return list(points)
    stride = (len(points) - 1) / (most - 1)
    return [points[round(index * stride)] for index in range(most)]


def spread(positions: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Move points that lie on one another onto a small spiral around their place."""
    total = Counter(positions)
    seen: Counter[tuple[float, float]] = Counter()
    placed = []
    for x, y in positions:
        turn = seen[x, y]
        seen[x, y] += 1
        radius = min(0.028, 0.07 / math.sqrt(total[x, y])) * math.sqrt(turn)
        angle = turn * math.pi * (3 - math.sqrt(5))
        placed.append((x + radius * math.cos(angle), y + radius * math.sin(angle)))
    return placed
