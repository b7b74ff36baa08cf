"""Search spaces: how one parameter is sampled."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import Field, model_validator

from sweeper.config.base import Problems, Scalar, Strict


class FloatSpace(Strict):
    """A real number between ``low`` and ``high``, both included."""

    type: Literal["float"]
    low: float
    """The smallest value."""
    high: float
    """The largest value."""
    log: bool = False
    """Sample the logarithm evenly: for values that span orders of magnitude."""
    step: Annotated[float, Field(gt=0)] | None = None
    """Only `low`, `low + step`, … up to `high`; excludes `log`."""

    @model_validator(mode="after")
    def _check(self) -> FloatSpace:
        _check_range(self.low, self.high, self.log, self.step)
        return self

    def ends(self) -> tuple[Scalar, ...]:
        """The values whose validity decides that of the whole range."""
        return (self.low, self.high)

    def grid(self) -> list[Scalar] | None:
        """All values in order, or None when there are infinitely many."""
        if self.step is None:
            return [self.low] if self.low == self.high else None
        # The tolerance keeps the last value when the division is inexact, as in (1.0 - 0.1) / 0.3.
        count = math.floor((self.high - self.low) / self.step + 1e-9) + 1
        return [self.low + index * self.step for index in range(count)]


class IntSpace(Strict):
    """A whole number between ``low`` and ``high``, both included."""

    type: Literal["int"]
    low: int
    """The smallest value."""
    high: int
    """The largest value."""
    log: bool = False
    """Sample the logarithm evenly."""
    step: Annotated[int, Field(ge=1)] = 1
    """Only `low`, `low + step`, … up to `high`; other than 1 excludes `log`."""

    @model_validator(mode="after")
    def _check(self) -> IntSpace:
        _check_range(self.low, self.high, self.log, None if self.step == 1 else self.step)
        return self

    def ends(self) -> tuple[Scalar, ...]:
        """The values whose validity decides that of the whole range."""
        return (self.low, self.high)

    def grid(self) -> list[Scalar] | None:
        """All values in order."""
        return list(range(self.low, self.high + 1, self.step))


class CategoricalSpace(Strict):
    """One of a list of values, in no order."""

    type: Literal["categorical"]
    choices: Annotated[tuple[Scalar, ...], Field(min_length=1, strict=False)]
    """The values to choose from."""

    @model_validator(mode="after")
    def _check(self) -> CategoricalSpace:
        problems = Problems()
        seen: list[tuple[type, Scalar]] = []
        for index, choice in enumerate(self.choices):
            if (type(choice), choice) in seen:
                problems.add(
                    ("choices", index), f"expected distinct choices, found {choice!r} twice"
                )
            seen.append((type(choice), choice))
        problems.raise_if_any()
        return self

    def ends(self) -> tuple[Scalar, ...]:
        """The values whose validity decides that of the whole space."""
        return self.choices

    def grid(self) -> list[Scalar] | None:
        """All values in order."""
        return list(self.choices)


Space = Annotated[FloatSpace | IntSpace | CategoricalSpace, Field(discriminator="type")]


def _check_range(low: float, high: float, log: bool, step: float | None) -> None:
    problems = Problems()
    if low > high:
        problems.add(("high",), f"expected at least low = {low}, found {high}")
    if log and low <= 0:
        problems.add(
            ("low",), f"expected a number greater than 0 because of log: true, found {low}"
        )
    if log and step is not None:
        problems.add(("step",), "expected no step together with log: true")
    problems.raise_if_any()


def contains(space: FloatSpace | IntSpace | CategoricalSpace, value: Scalar) -> bool:
    """Whether ``value`` can be sampled from ``space``."""
    if isinstance(space, CategoricalSpace):
        return value in space.choices
    return isinstance(value, int | float) and space.low <= value <= space.high
