"""Plots of a search's settings: their importance and their effects."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, Locator, LogLocator, MaxNLocator

from sweeper.analysis.comparison import Comparison, scored_trials
from sweeper.analysis.importance.effects import Effect
from sweeper.analysis.importance.importance import Importance
from sweeper.config.base import Scalar
from sweeper.records.study_record import ArmRecord, StudyRecord
from sweeper.reporting.plots.style import (
    FAINT_INK,
    GROUND,
    INK,
    ArmStyle,
    arm_styles,
    empty_figure,
    log_ticks,
    score_label,
    styled,
    thinned,
)
from sweeper.reporting.text import formatting

MOST_PANELS = 20
"""Most settings whose effects are drawn."""
LONGEST_TICK = 12
"""Most characters of a tick label."""


def importance_plot(importances: Sequence[Importance], comparison: Comparison) -> Figure | None:
    """Draw each setting's importance with its interval, a panel an arm; None without any."""
    if not importances:
        return None
    bars = max(len(one.values) + len(one.conditional) for one in importances)
    columns = min(len(importances), 2)
    rows = math.ceil(len(importances) / columns)
    figure = empty_figure(3.9 * columns + 0.7, (0.36 * bars + 1.1) * rows + 0.75)
    looks = arm_styles(comparison)
    for index, one in enumerate(importances):
        axes = styled(figure.add_subplot(rows, columns, index + 1))
        shown = formatting.whole_percents({n: share.share for n, share in one.values.items()})
        entries = [(name, share, f"{shown[name]} %", "") for name, share in one.values.items()]
        within = f", in {one.conditional_trials} trials"
        entries += [
            (name, share, f"{formatting.percent(share.share)}{within}", "////")
            for name, share in one.conditional.items()
        ]
        for place, (_, share, text, hatch) in enumerate(entries):
            axes.barh(
                place,
                share.share,
                xerr=[[share.share - share.low], [share.high - share.share]],
                error_kw={"ecolor": INK, "elinewidth": 1.1, "capsize": 2.5},
                height=0.62,
                color=GROUND if hatch else looks[one.arm].colour,
                edgecolor=looks[one.arm].colour,
                hatch=hatch,
                linewidth=0.9,
            )
            axes.annotate(
                text,
                (share.high, place),
                xytext=(6, 0),
                textcoords="offset points",
                va="center",
                fontsize=8,
                color=INK,
            )
        names = [plain(name) for name, _, _, _ in entries]
        axes.set_yticks(range(len(entries)), names, parse_math=False)
        axes.set_ylim(bars - 0.5, -0.6)
        axes.set_xlim(0, 1.36)
        axes.set_xticks([0, 0.5, 1], ["0", "50 %", "100 %"])
        axes.grid(visible=False, axis="y")
        axes.set_title(f"{one.arm} ({one.trials} trials)", fontsize=10, color=INK, loc="left")
    hatched = any(one.conditional for one in importances)
    aside = "; hatched ones have a scale of their own" if hatched else ""
    figure.supxlabel(
        "share of the score's variance that single settings explain (fANOVA)\n"
        "the lines hold 80 % of the re-fits to halves of the trials\n"
        f"the filled bars of an arm sum to 100 %{aside}",
        fontsize=8.5,
        color=INK,
    )
    return figure


def effects_plot(
    record: StudyRecord, comparison: Comparison, effects: Sequence[Effect]
) -> Figure | None:
    """Draw the score over each setting, with its band and the trials; return None without any.

    Of more than ``MOST_PANELS``, clear and large effects are drawn.
    """
    if not effects:
        return None
    largest = sorted(effects, key=lambda effect: (not effect.clear, -effect.difference))
    kept = [effect for effect in effects if effect in largest[:MOST_PANELS]]
    columns = min(len(kept), 4)
    rows = math.ceil(len(kept) / columns)
    figure = empty_figure(2.5 * columns + 0.7, 2.25 * rows + 0.55)
    looks = arm_styles(comparison)
    arms = {arm.name: arm for arm in record.arms}
    heights = {arm: _heights(arms[arm], [e for e in kept if e.arm == arm]) for arm in arms}
    for index, effect in enumerate(kept):
        axes = styled(figure.add_subplot(rows, columns, index + 1))
        axes.set_ylim(*heights[effect.arm])
        _draw_effect(axes, effect, arms[effect.arm], looks[effect.arm])
        axes.set_title(effect.arm, fontsize=9, color=INK, loc="left")
        if not effect.clear:
            axes.set_title("not clear", fontsize=8, color=FAINT_INK, loc="right")
    figure.supylabel(score_label(comparison), fontsize=9, color=INK)
    return figure


def _heights(arm: ArmRecord, effects: Sequence[Effect]) -> tuple[float, float]:
    """Return the limits of an arm's axes: all bands, and all but the most extreme trials."""
    scores = [score.score for _, score in scored_trials(arm)]
    share = 0.05 if len(scores) >= 20 else 0.0
    ends = [*np.quantile(scores, (share, 1 - share))] if scores else []
    ends += [height for effect in effects for height in (*effect.low, *effect.high)]
    if not ends:
        return (0.0, 1.0)
    margin = (max(ends) - min(ends)) * 0.06 or 0.01
    return (float(min(ends) - margin), float(max(ends) + margin))


def _draw_effect(axes: Axes, effect: Effect, arm: ArmRecord, look: ArmStyle) -> None:
    single = effect.scale in ("values", "names")

    def across(value: Scalar) -> float:
        if single:
            return float(effect.values.index(value))
        assert isinstance(value, int | float)
        return float(value)

    trials = [
        (across(trial.params[effect.name]), score.score)
        for trial, score in scored_trials(arm)
        if effect.name in trial.params
        and (trial.params[effect.name] in effect.values if single else True)
    ]
    if trials:
        x, y = np.array(thinned(trials)).T
        # Points outside are drawn at the frame.
        y = np.clip(y, *axes.get_ylim())
        if single:
            # Next to one another, in the order of the trials.
            x = x + 0.5 * ((np.arange(len(x)) * 0.618) % 1 - 0.5)
        axes.scatter(x, y, s=9, color=FAINT_INK, alpha=0.4, linewidths=0, zorder=2)
    places = [across(value) for value in effect.values]
    style: dict[str, Any] = {"color": look.colour, "zorder": 3}
    if single:
        scores = np.array(effect.scores)
        reach = [scores - effect.low, np.array(effect.high) - scores]
        axes.errorbar(places, scores, yerr=reach, fmt="o", markersize=5, capsize=3, **style)
        ticks = [formatting.shortened(plain(value), LONGEST_TICK) for value in effect.values]
        axes.set_xticks(places, ticks, parse_math=False)
        if sum(map(len, ticks)) > 26:
            for label in axes.get_xticklabels():
                label.set(rotation=25, ha="right")
        axes.set_xlim(-0.5, len(places) - 0.5)
    else:
        axes.fill_between(places, effect.low, effect.high, alpha=0.22, linewidth=0, **style)
        axes.plot(places, effect.scores, linewidth=1.8, **style)
        if effect.scale == "log":
            axes.set_xscale("log")
            log_ticks(axes.xaxis, lambda value, _: formatting.number(float(value)))
            axes.xaxis.set_major_locator(_few_ticks(places[0], places[-1]))
        else:
            axes.xaxis.set_major_locator(MaxNLocator(4))
        axes.margins(x=0.02)
    axes.yaxis.set_major_locator(MaxNLocator(4))
    axes.tick_params(labelsize=8)
    within = f" ({effect.trials} trials)" if effect.conditional else ""
    axes.set_xlabel(plain(effect.name) + within, fontsize=9, parse_math=False)


def _few_ticks(low: float, high: float) -> Locator:
    """Choose few ticks for a small panel: the ends and the middle of a short range."""
    if high / low < 20:
        return FixedLocator(np.geomspace(low, high, 3).tolist())
    return LogLocator(subs=(1, 2, 5) if high / low < 50 else (1,), numticks=6)


def plain(value: Scalar) -> str:
    """Format a value without characters that a font may lack."""
    text = formatting.number(value)
    return "".join(c if c.isprintable() and ord(c) < 0x250 else "?" for c in text)
