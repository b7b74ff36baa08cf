"""The search: what chooses its trials, what ends them early, and when it stops."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from sweeper.config.base import Duration, Fraction, PositiveFloat, PositiveInt, Problems, Strict

Objective = Literal[
    "score", "device_seconds", "trained_tokens", "generated_tokens", "model_parameters"
]
"""Goal of a search: the selection suite's score in its own direction, or a cost, which is to be
low."""

_HALVING = ("asha", "hyperband")
_EVEN_POINTS = (0.25, 0.5, 0.75)


class SamplerConfig(Strict):
    """How Optuna chooses the next trial of an arm."""

    type: Literal["tpe", "random", "grid", "gp"] = "tpe"
    """The sampler."""
    startup_trials: PositiveInt = 5
    """Random trials before `tpe` and `gp` begin to learn."""


class PrunerConfig(Strict):
    """How trials that will not be the best are ended early.

    A student is scored on a part of the selection suite at some points of its training, which this
    does not disturb, and Optuna's pruner decides if the trial continues.
    """

    type: Literal["none", "median", "asha", "hyperband", "wilcoxon"] = "none"
    """The pruner; arms with nothing to search are not pruned."""
    at: Annotated[tuple[Fraction, ...], Field(strict=False, min_length=1)] | None = None
    """The shares of the training after which a student is scored. By default a quarter, half and
    three quarters; for `asha` and `hyperband` 1/reduction_factor² and 1/reduction_factor."""
    documents: PositiveInt = 50
    """Documents of each task that are scored then, spread evenly over the suite's."""
    startup_trials: Annotated[int, Field(ge=0)] = 3
    """Trials of an arm that complete before one is pruned."""
    reduction_factor: Annotated[int, Field(ge=2)] | None = None
    """Factor of `asha` and `hyperband`: about one trial in so many continues at each point; by
    default 3."""
    p_threshold: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Threshold of `wilcoxon`: a trial ends when the signed-rank test finds, with a smaller p than
    this, that it is worse than the best one on the same documents; by default 0.1."""

    @model_validator(mode="after")
    def _check(self) -> PrunerConfig:
        problems = Problems()
        if self.at is not None and not _ascending_within(self.at):
            message = "expected ascending numbers between 0 and 1, neither included"
            problems.add(("at",), f"{message}, found {list(self.at)}")
        for key, types in (("reduction_factor", _HALVING), ("p_threshold", ("wilcoxon",))):
            if getattr(self, key) is not None and self.type not in types:
                message = f"{key!r} has no effect with the pruner {self.type}"
                problems.add((key,), f"{message}; it belongs to {' and '.join(types)}")
        problems.raise_if_any()
        return self

    def points(self) -> tuple[float, ...]:
        """Return the shares of the training after which students are scored, if any."""
        if self.type == "none":
            return ()
        if self.at is not None:
            return self.at
        factor = self.reduction()
        return (1 / factor**2, 1 / factor) if self.type in _HALVING else _EVEN_POINTS

    def reduction(self) -> int:
        """Return ``reduction_factor``, or its default."""
        return self.reduction_factor or 3


class BudgetConfig(Strict):
    """Limits of a whole study, next to the number of `trials` of each arm."""

    trials: PositiveInt | None = None
    """Trials of all arms together, given out evenly."""
    wall_time: Duration | None = None
    """Time in which trials run: seconds, or `90s`, `30m`, `12h`, `2d`."""
    device_hours: PositiveFloat | None = None
    """Hours that trials may take on their devices, all arms together. What no arm has for itself
    is divided evenly among the others."""
    patience: PositiveInt | None = None
    """An arm stops after so many trials in which its best score has not risen by more than its
    standard error."""


class ArmBudgetConfig(Strict):
    """Limits of one arm, instead of its share of the study's budget."""

    device_hours: PositiveFloat | None = None
    """Hours that the arm's trials may take on their devices."""
    patience: PositiveInt | None = None
    """Limit that replaces the study's `budget.patience`."""


def _ascending_within(points: tuple[float, ...]) -> bool:
    return all(a < b for a, b in zip((0.0, *points), (*points, 1.0), strict=True))
