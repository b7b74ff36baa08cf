"""Known failures of on-policy training: when rollouts count as collapsed, and what follows."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from sweeper.config.base import Fraction, PositiveInt, Strict


class CollapseConfig(Strict):
    """Watch over the rollouts of every training that samples from its student.

    Points of the training curve are joined to windows of `min_rollouts` rollouts. The start of a
    training is its first three windows. A sign has to show in three later ones in a row.
    """

    action: Literal["warn", "stop"] = "warn"
    """`stop` ends a trial of the search that shows a sign as diverged; confirmation runs go on, so
    that no seed is missing from the verdict."""
    length_growth: Annotated[float, Field(ge=1, allow_inf_nan=False)] = 1.5
    """Length explosion: rollouts are this many times as long as at the start, and more than
    `truncated_share` of them are cut at `max_new_tokens`."""
    truncated_share: Fraction = 0.5
    """Share of rollouts cut at `max_new_tokens` above which growth is an explosion; 1: never."""
    ended_share: Fraction = 0.1
    """A student does not end if an end token ends a smaller share of rollouts; 0: never."""
    repetition: Fraction = 0.5
    """Collapse into repetition: a larger share of the rollouts' 4-grams are repeats; 1: never."""
    entropy_share: Fraction = 0.25
    """Entropy collapse: the student's entropy falls below this share of the start's, and of the
    teacher's at the same positions; 0: never."""
    min_rollouts: PositiveInt = 32
    """Rollouts of a window."""
    grace: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Share of the optimiser steps after which the watch begins: a start that has yet to learn when
    to end needs more."""
