from __future__ import annotations

import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from sweeper.config.space import CategoricalSpace, FloatSpace, IntSpace, contains


def test_the_values_of_a_stepped_range_end_at_high() -> None:
    # In binary, 0.1 + 2 * 0.1 is above 0.3 and (1.0 - 0.1) / 0.3 is below 3.
    assert FloatSpace(type="float", low=0.1, high=0.3, step=0.1).grid() == [0.1, 0.2, 0.3]
    assert FloatSpace(type="float", low=0.1, high=1.0, step=0.3).grid() == [0.1, 0.4, 0.7, 1.0]
    assert IntSpace(type="int", low=16, high=64, step=16).grid() == [16, 32, 48, 64]


def test_a_continuous_range_has_no_grid_unless_it_is_a_point() -> None:
    assert FloatSpace(type="float", low=0.1, high=0.3).grid() is None
    assert FloatSpace(type="float", low=0.1, high=0.3).count() is None
    assert FloatSpace(type="float", low=0.3, high=0.3).grid() == [0.3]


def test_counting_values_does_not_list_them() -> None:
    assert IntSpace(type="int", low=0, high=10**15).count() == 10**15 + 1
    assert FloatSpace(type="float", low=0, high=1e300, step=0.5).count() == 2 * 10**300 + 1


@pytest.mark.parametrize("high", [0.9, 1.05])
def test_a_step_that_misses_high_is_refused(high: float) -> None:
    with pytest.raises(ValidationError, match="such as"):
        FloatSpace(type="float", low=0.1, high=high, step=0.5)


@given(
    low=st.integers(-50, 50), count=st.integers(0, 40), step=st.integers(1, 30),
    scale=st.sampled_from([1, 10, 100, 1000]),
)  # fmt: skip
@settings(derandomize=True, max_examples=200, deadline=None)
def test_optuna_accepts_every_value_of_a_grid(low: int, count: int, step: int, scale: int) -> None:
    space = FloatSpace(
        type="float", low=low / scale, high=(low + count * step) / scale, step=step / scale
    )
    values = space.grid()
    assert values is not None
    assert len(values) == space.count() == count + 1
    assert (values[0], values[-1]) == (space.low, space.high)
    # Optuna warns, which fails the test, about a high that no step reaches.
    distribution = optuna.distributions.FloatDistribution(space.low, space.high, step=space.step)
    for value in values:
        assert isinstance(value, float)
        assert distribution._contains(value)
        assert contains(space, value)


def test_containment() -> None:
    assert contains(FloatSpace(type="float", low=0.0, high=1.0), 1.0)
    assert not contains(FloatSpace(type="float", low=0.0, high=0.9), 1.0)
    assert not contains(FloatSpace(type="float", low=0.0, high=0.9), "0.5")
    assert contains(CategoricalSpace(type="categorical", choices=(True,)), True)
    assert not contains(CategoricalSpace(type="categorical", choices=(True,)), False)


def test_the_ends_are_named_by_their_keys() -> None:
    assert IntSpace(type="int", low=1, high=9).ends() == {("low",): 1, ("high",): 9}
    choices = CategoricalSpace(type="categorical", choices=("a", None))
    assert choices.ends() == {("choices", 0): "a", ("choices", 1): None}
