"""Plot of a verdict: the winners' means, and the differences between them."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from sweeper.analysis.comparison import Comparison
from sweeper.analysis.verdict_records import ArmVerdict, PairVerdict, Verdict
from sweeper.reporting.plots.style import (
    FAINT_INK,
    GRID,
    INK,
    ArmStyle,
    arm_styles,
    empty_figure,
    styled,
)
from sweeper.reporting.tables.verdict import measures

MARGIN = "#f0e2b6"
"""Shade of differences that are too small to matter."""


def verdict_plot(verdict: Verdict, comparison: Comparison) -> Figure | None:
    """Draw two panels for each measure of cost; return None without any comparison.

    Left, each winner's mean on the test suite with its 95 % interval, and the teacher and the
    starting student as lines. Right, each difference with its interval, and the margin as a shade.
    """
    ats = measures(verdict)
    if not ats:
        return None
    looks = arm_styles(comparison)
    groups = [(verdict.at(at), [pair for pair in verdict.pairs if pair.at == at]) for at in ats]
    heights = [0.34 * max(len(arms), len(pairs)) + 0.9 for arms, pairs in groups]
    figure = empty_figure(9.6, sum(heights) + 0.5)
    grid = figure.add_gridspec(len(ats), 2, height_ratios=heights)
    for row, (at, (arms, pairs)) in enumerate(zip(ats, groups, strict=True)):
        left = styled(figure.add_subplot(grid[row, 0]))
        right = styled(figure.add_subplot(grid[row, 1]))
        _means(left, verdict, arms, looks)
        _differences(right, verdict, pairs, looks)
        equal = f"at equal {at.replace('_', ' ')}"
        left.set_title(f"test score, {equal}", fontsize=10, color=INK, loc="left", pad=16)
        right.set_title(f"difference, {equal}", fontsize=10, color=INK, loc="left", pad=16)
    better = "higher" if verdict.higher_is_better else "lower"
    figure.supxlabel(
        f"test suite {verdict.suite}, {better} is better; bars are 95 % intervals over seeds and"
        " documents",
        fontsize=8.5,
        color=INK,
    )
    return figure


def _means(
    axes: Axes, verdict: Verdict, arms: Sequence[ArmVerdict], looks: dict[str, ArmStyle]
) -> None:
    for name, end, dashes, side in (
        ("teacher", verdict.teacher, (6, 2), "right"),
        ("start", verdict.starting_student, (2, 2), "left"),
    ):
        if end is not None:
            axes.axvline(end.mean, color=FAINT_INK, linewidth=1.1, dashes=dashes, zorder=1)
            _name_above(axes, name, end.mean, side)
    for place, arm in enumerate(arms):
        test = arm.test
        _interval(axes, place, test.mean, (test.low, test.high), looks[arm.arm])
    _rows(axes, [f"{arm.arm} #{arm.trial}" for arm in arms])


def _differences(
    axes: Axes, verdict: Verdict, pairs: Sequence[PairVerdict], looks: dict[str, ArmStyle]
) -> None:
    if verdict.margin is not None:
        axes.axvspan(-verdict.margin, verdict.margin, color=MARGIN, linewidth=0, zorder=0)
        _name_above(axes, f"±{verdict.margin:g}", 0, "center")
    axes.axvline(0, color=INK, linewidth=1.0, zorder=1)
    for place, pair in enumerate(pairs):
        # Of teacher and start there are no points: the arm has its own.
        look = looks.get(pair.against) or looks[pair.arm]
        _interval(axes, place, pair.difference, pair.interval, look)
        axes.annotate(
            pair.conclusion,
            (1, place),
            xycoords=("axes fraction", "data"),
            xytext=(6, 0),
            textcoords="offset points",
            va="center",
            fontsize=8.5,
            color=INK,
            annotation_clip=False,
        )
    _rows(axes, [f"{pair.arm}\n− {pair.against}" for pair in pairs])


def _name_above(axes: Axes, name: str, x: float, side: str) -> None:
    """Write a name above the frame at ``x``."""
    axes.annotate(
        name,
        (x, 1),
        xycoords=("data", "axes fraction"),
        xytext=(0, 3),
        textcoords="offset points",
        ha=side,
        fontsize=8.5,
        color=FAINT_INK,
        annotation_clip=False,
    )


def _interval(
    axes: Axes, place: float, mean: float, ends: tuple[float, float], look: ArmStyle
) -> None:
    axes.plot(ends, (place, place), color=look.colour, linewidth=2.2, solid_capstyle="butt")
    axes.plot(
        [mean],
        [place],
        look.marker,
        color=look.colour,
        markersize=7.5,
        markeredgecolor=INK,
        markeredgewidth=0.8,
        zorder=3,
    )


def _rows(axes: Axes, names: Sequence[str]) -> None:
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.grid(visible=False, axis="y")
    axes.xaxis.set_major_locator(MaxNLocator(6))
    axes.spines["left"].set_color(GRID)
