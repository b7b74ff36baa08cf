"""The settings at which an arm's trials are measured."""

from __future__ import annotations

from typing import Any

import pytest

from sweeper.commands.check.cost_range import cost_range
from sweeper.config.arms import ArmConfig
from sweeper.config.base import Scalar

LMBDA = {"type": "float", "low": 0.25, "high": 1.0}
TOKENS = {"type": "int", "low": 32, "high": 64, "step": 16}
RATE = {"type": "float", "low": 1e-4, "high": 1e-2, "log": True}


def range_of(
    method: str, settings: dict[str, Any] | None = None, **search: Any
) -> tuple[dict[str, Scalar], dict[str, Scalar]]:
    arm = {"method": method, "settings": settings or {}, "search": search}
    return cost_range(ArmConfig.model_validate(arm))


def test_what_costs_nothing_has_one_value() -> None:
    cheapest, most_expensive = range_of("sft", learning_rate=RATE)
    assert cheapest == most_expensive == {"learning_rate": 1e-4}


def test_what_costs_more_is_measured_at_both_ends() -> None:
    steps = {"type": "categorical", "choices": [300, 100, 200]}
    cheapest, most_expensive = range_of("sft", max_steps=steps, learning_rate=RATE)
    assert (cheapest["max_steps"], most_expensive["max_steps"]) == (100, 300)
    assert cheapest["learning_rate"] == most_expensive["learning_rate"]


def test_a_share_of_rollouts_is_measured_without_and_with_sampling_only() -> None:
    expected = ({"lmbda": 0.0}, {"lmbda": 1.0})
    assert range_of("gkd", {"max_new_tokens": 32}, lmbda=LMBDA) == expected
    assert range_of("gkd", {"max_new_tokens": 32}) == expected
    choices = {"type": "categorical", "choices": [0.0, 0.1, 0.5]}
    assert range_of("gkd", lmbda=choices) == expected


def test_what_has_no_effect_is_not_set() -> None:
    cheapest, most_expensive = range_of("gkd", lmbda=LMBDA, max_new_tokens=TOKENS)
    assert cheapest == {"lmbda": 0.0}
    assert most_expensive == {"lmbda": 1.0, "max_new_tokens": 64}


@pytest.mark.parametrize("lmbda", [0.0, 1.0])
def test_without_luck_one_trial_is_enough(lmbda: float) -> None:
    cheapest, most_expensive = range_of("gkd", {"lmbda": lmbda})
    assert cheapest == most_expensive == {"lmbda": lmbda}


def test_every_value_can_be_sampled() -> None:
    _, most_expensive = range_of(
        "gkd",
        {"lmbda": 1.0},
        beta={"type": "categorical", "choices": [0.0, 0.1, 0.9]},
        temperature={"type": "float", "low": 0.3, "high": 1.0, "step": 0.1},
    )
    assert most_expensive == {"lmbda": 1.0, "beta": 0.1, "temperature": 0.3}
