"""Search spaces: how one parameter is sampled."""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated, Literal

from pydantic import Field, TypeAdapter, ValidationError, model_validator

from sweeper.config.base import KeyPath, Problems, Scalar, Strict, short


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

    def ends(self) -> dict[KeyPath, Scalar]:
        """Return the values whose validity decides that of the whole range, by their keys."""
        return {("low",): self.low, ("high",): self.high}

    def count(self) -> int | None:
        """Return how many values there are, or None when there are infinitely many."""
        if self.low == self.high:
            return 1
        return None if self.step is None else _steps(self.low, self.high, self.step) + 1

    def grid(self) -> list[Scalar] | None:
        """Return all values in order, or None when there are infinitely many."""
        count = self.count()
        if count is None:
            return None
        # In decimals, because 0.1 + 2 * 0.1 would be above a `high` of 0.3.
        low, step = Decimal(str(self.low)), Decimal(str(self.step or 0))
        return [float(low + index * step) for index in range(count)]


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

    def ends(self) -> dict[KeyPath, Scalar]:
        """Return the values whose validity decides that of the whole range, by their keys."""
        return {("low",): self.low, ("high",): self.high}

    def count(self) -> int | None:
        """Return how many values there are."""
        return (self.high - self.low) // self.step + 1

    def grid(self) -> list[Scalar] | None:
        """Return all values in order."""
        return list(range(self.low, self.high + 1, self.step))


class CategoricalSpace(Strict):
    """One of a list of values, in no order."""

    type: Literal["categorical"]
    choices: Annotated[tuple[Scalar, ...], Field(min_length=1, strict=False)]
    """The values to choose from."""

    @model_validator(mode="after")
    def _check(self) -> CategoricalSpace:
        problems = Problems()
        for index, choice in enumerate(self.choices):
            # 1, 1.0 and true are equal to Optuna too.
            if choice in self.choices[:index]:
                problems.add(
                    ("choices", index), f"expected distinct choices, found {choice!r} again"
                )
        problems.raise_if_any()
        return self

    def ends(self) -> dict[KeyPath, Scalar]:
        """Return the values whose validity decides that of the whole space, by their keys."""
        return {("choices", index): choice for index, choice in enumerate(self.choices)}

    def count(self) -> int | None:
        """Return how many values there are."""
        return len(self.choices)

    def grid(self) -> list[Scalar] | None:
        """Return all values in order."""
        return list(self.choices)


AnySpace = FloatSpace | IntSpace | CategoricalSpace
Space = Annotated[AnySpace, Field(discriminator="type")]
_SPACE: TypeAdapter[AnySpace] = TypeAdapter(Space)


def read_space(raw: object) -> AnySpace | None:
    """Return a space from its form in a record; None for anything else."""
    try:
        return _SPACE.validate_python(raw)
    except ValidationError:
        return None


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
    elif step is not None and low < high:
        steps = _steps(low, high, step)
        last = Decimal(str(low)) + steps * Decimal(str(step))
        if last != Decimal(str(high)):
            lower = type(high)(last)
            message = f"expected low plus a number of steps, such as {lower}, found {high}"
            problems.add(("high",), message)
    problems.raise_if_any()


def _steps(low: float, high: float, step: float) -> int:
    """Return how many whole steps fit between the ends, counted in decimals: 0.9 / 0.3 is 3."""
    return int((Decimal(str(high)) - Decimal(str(low))) / Decimal(str(step)))


def as_sampled(space: AnySpace, value: Scalar) -> Scalar:
    """Return ``value`` as it would be sampled from ``space``: of its type, exactly on its step.

    Raises:
        ValueError: It cannot be sampled; says what was expected.
    """
    if isinstance(space, CategoricalSpace):
        for choice in space.choices:
            if choice == value and isinstance(choice, bool) == isinstance(value, bool):
                return choice
        raise ValueError(f"expected one of {', '.join(map(short, space.choices))}")
    whole = isinstance(space, IntSpace)
    if isinstance(value, bool) or not isinstance(value, int if whole else int | float):
        raise ValueError(f"expected a {'whole ' if whole else ''}number")
    if not space.low <= value <= space.high:
        raise ValueError(f"expected a number between {space.low} and {space.high}")
    if space.step is None:
        return float(value)
    low, step = Decimal(str(space.low)), Decimal(str(space.step))
    steps = (Decimal(str(value)) - low) / step
    if abs(steps - round(steps)) > 1e-8:  # as Optuna decides it
        raise ValueError(f"expected {space.low} plus a number of steps of {space.step}")
    return value if whole else float(low + round(steps) * step)


def contains(space: AnySpace, value: Scalar) -> bool:
    """Return True if ``value`` can be sampled from ``space``."""
    if isinstance(space, CategoricalSpace):
        return value in space.choices
    return isinstance(value, int | float) and space.low <= value <= space.high
