"""The plots of a report, as matplotlib figures without global state.

Every figure has an opaque, nearly white ground, so that it reads on light and on dark pages. An arm
has the same colour and marker in all of them; the colours are Okabe and Ito's, which people with
colour blindness can tell apart.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from sweeper.analysis.comparison import ArmSummary, Comparison, scored_trials
from sweeper.analysis.importance import Importance
from sweeper.reporting import formatting, plot_labels
from sweeper.reporting.plot_labels import EndLabel, end_labels, place_labels
from sweeper.reporting.plot_style import (
    FAINT_INK,
    GROUND,
    INK,
    empty_figure,
    legend,
    looks_of,
    new_figure,
    reference_lines,
    score_label,
    spread,
    styled,
    thinned,
)
from sweeper.study_record import StudyRecord, TrialRecord

MOST_NAMED = 12
"""Trials on the map whose scores are all written beside them; of more, only the best one's."""
MOST_ON_MAP = 400
"""Trials on the map, an even selection by score with the best: there they hide each other."""


def progress_plot(comparison: Comparison) -> Figure | None:
    """Score by trial, with each arm's best so far; None when nothing was scored.

    An arm with a single trial has no course: it is a mark with its name.
    """
    arms = [arm for arm in comparison.arms if arm.series]
    if not arms:
        return None
    figure, axes = new_figure(7.6, 4.2)
    looks = looks_of(comparison)
    last = max(point.number for arm in arms for point in arm.series)
    # The lines go on to the right end: the best so far is what the arm would be judged by.
    end = last + max(0.03 * last, 0.1)
    ends: list[EndLabel] = []
    singles: list[tuple[str, float, float]] = []
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
            singles.append((name, numbers[0], points[0].score))
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
        ends.append(EndLabel(name, best[-1], look.colour, look.line))
    references = [_reference(*one) for one in reference_lines(axes, comparison)]
    axes.set_xlabel("trial of the arm")
    axes.set_ylabel(score_label(comparison))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.set_xlim((-0.5, 0.5) if last == 0 else (last - end, end))
    if plot_labels.fit([label.text for label in ends] + [name for name, _, _ in singles]):
        end_labels(axes, [*ends, *references])
        place_labels(axes, singles, size=8.5, weight="normal")
    else:
        legend(axes)
        end_labels(axes, references)
    return figure


def importance_plot(importances: Sequence[Importance], comparison: Comparison) -> Figure | None:
    """The importance of each setting, a panel for each arm; None without any."""
    if not importances:
        return None
    bars = max(len(one.values) + len(one.conditional) for one in importances)
    columns = min(len(importances), 2)
    rows = math.ceil(len(importances) / columns)
    figure = empty_figure(3.9 * columns + 0.7, (0.36 * bars + 1.1) * rows + 0.6)
    looks = looks_of(comparison)
    for index, one in enumerate(importances):
        axes = styled(figure.add_subplot(rows, columns, index + 1))
        shown = _whole_percents(one.values)
        entries = [(name, share, f"{shown[name]} %", "") for name, share in one.values.items()]
        within = f"in {one.conditional_trials} trials"
        entries += [
            (name, share, f"{formatting.percent(share)}, {within}", "////")
            for name, share in one.conditional.items()
        ]
        for place, (_, share, text, hatch) in enumerate(entries):
            axes.barh(
                place,
                share,
                height=0.62,
                color=GROUND if hatch else looks[one.arm].colour,
                edgecolor=looks[one.arm].colour,
                hatch=hatch,
                linewidth=0.9,
            )
            axes.annotate(
                text,
                (share, place),
                xytext=(4, 0),
                textcoords="offset points",
                va="center",
                fontsize=8,
                color=INK,
            )
        axes.set_yticks(range(len(entries)), [name for name, _, _, _ in entries])
        axes.set_ylim(bars - 0.5, -0.6)
        axes.set_xlim(0, 1.32)
        axes.set_xticks([0, 0.5, 1], ["0", "50 %", "100 %"])
        axes.grid(visible=False, axis="y")
        axes.set_title(f"{one.arm} ({one.trials} trials)", fontsize=10, color=INK, loc="left")
    hatched = any(one.conditional for one in importances)
    aside = "; hatched ones have a scale of their own" if hatched else ""
    figure.supxlabel(
        "share of the score's variance that single settings explain (fANOVA)\n"
        f"the filled bars of an arm sum to 100 %{aside}",
        fontsize=8.5,
        color=INK,
    )
    return figure


def _whole_percents(shares: Mapping[str, float]) -> dict[str, int]:
    """Shares that sum to 1 in whole per cent that sum to 100: the largest remainders go up."""
    whole = {name: math.floor(share * 100) for name, share in shares.items()}
    left = round(sum(shares.values()) * 100) - sum(whole.values())
    by_remainder = sorted(shares, key=lambda name: whole[name] - shares[name] * 100)
    for name in by_remainder[:left]:
        whole[name] += 1
    return whole


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
    axes.set_ylabel("beta: 0 is KL(teacher‖student),\n1 is KL(student‖teacher)")
    axes.set_xlim(-0.1, 1.1)
    axes.set_ylim(-0.1, 1.1)
    lmbdas, betas = zip(*{position for _, position, _ in scored}, strict=True)
    for axis, found in ((axes.xaxis, set(lmbdas)), (axes.yaxis, set(betas))):
        # A few distinct values are choices, or steps: marking them says more than even ticks do.
        if len(found) <= 6:
            axis.set_ticks(sorted(found))
    legend(axes, columns=3)
    digits = formatting.comparison_digits(comparison)
    best_first = sorted(
        zip(scored, placed, strict=False),
        key=lambda one: one[0][2],
        reverse=record.higher_is_better,
    )
    texts = [(f"{score:.{digits}f}", *place) for (_, _, score), place in best_first]
    if len(texts) > MOST_NAMED:
        texts = [(f"best: {texts[0][0]}", *texts[0][1:])]
    place_labels(axes, texts, size=8, weight="normal")
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
            label=summary.name,
        )
    if min(seconds) > 0 and max(seconds) / min(seconds) > 20:
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
        axes.xaxis.set_minor_locator(NullLocator())
    else:
        axes.set_xlim(0, max(seconds) * 1.12 or 1)
    references = reference_lines(axes, comparison)
    axes.set_xlabel("device-seconds of one trial, training and evaluation")
    axes.set_ylabel(score_label(comparison))
    end_labels(axes, [_reference(*one) for one in references])
    if len(best) <= plot_labels.MOST_LABELS:
        place_labels(axes, [(arm.name, x, y) for arm, x, y in best])
    else:
        legend(axes)
    return figure


def _reference(name: str, value: float) -> EndLabel:
    return EndLabel(name, value, FAINT_INK, width=0.9, ink=FAINT_INK)


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
