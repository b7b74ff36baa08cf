"""The settings at which an arm's trials are measured."""

from __future__ import annotations

from typing import Any

import pytest

from sweeper.commands.check.cost_range import CostRange, ends
from sweeper.config.arms import ArmConfig

LMBDA = {"type": "float", "low": 0.25, "high": 1.0}
TOKENS = {"type": "int", "low": 32, "high": 64, "step": 16}
RATE = {"type": "float", "low": 1e-4, "high": 1e-2, "log": True}


def ends_of(method: str, settings: dict[str, Any] | None = None, **search: Any) -> CostRange:
    arm = {"method": method, "settings": settings or {}, "search": search}
    return ends(ArmConfig.model_validate(arm))


def test_what_costs_nothing_is_measured_in_its_middle() -> None:
    found = ends_of("sft", learning_rate=RATE)
    assert found.lightest == found.heaviest == {"learning_rate": pytest.approx(1e-3)}
    assert (found.low, found.mean, found.high) == (0, 0, 0)


def test_what_costs_more_is_measured_at_both_ends() -> None:
    steps = {"type": "categorical", "choices": [300, 100, 200]}
    found = ends_of("sft", max_steps=steps, learning_rate=RATE)
    assert (found.lightest["max_steps"], found.heaviest["max_steps"]) == (100, 300)
    assert found.lightest["learning_rate"] == found.heaviest["learning_rate"]
    assert (found.low, found.mean, found.high) == (0, 0.5, 1)


def test_a_share_of_rollouts_is_mixed_from_none_and_all() -> None:
    found = ends_of("gkd", {"max_new_tokens": 32}, lmbda=LMBDA)
    assert (found.lightest, found.heaviest) == ({"lmbda": 0.0}, {"lmbda": 1.0})
    assert (found.low, found.mean, found.high) == (0.25, 0.625, 1.0)
    fixed = ends_of("gkd", {"max_new_tokens": 32})
    assert fixed.heaviest == {"lmbda": 1.0}
    assert (fixed.low, fixed.mean, fixed.high) == (0.5, 0.5, 0.5)
    choices = ends_of("gkd", lmbda={"type": "categorical", "choices": [0.0, 0.1, 0.5]})
    assert (choices.low, choices.mean, choices.high) == (0.0, pytest.approx(0.2), 0.5)


def test_what_has_no_effect_is_not_set() -> None:
    found = ends_of("gkd", lmbda=LMBDA, max_new_tokens=TOKENS)
    assert found.lightest == {"lmbda": 0.0}
    assert found.heaviest == {"lmbda": 1.0, "max_new_tokens": 64}
    assert (found.low, found.mean, found.high) == (0.0, 0.625, 1.0), "any of them may be short"


@pytest.mark.parametrize("lmbda", [0.0, 1.0])
def test_without_luck_one_trial_is_enough(lmbda: float) -> None:
    found = ends_of("gkd", {"lmbda": lmbda})
    assert found.lightest == found.heaviest == {"lmbda": lmbda}
    assert found.low == found.mean == found.high


def test_the_middle_is_a_value_that_can_be_sampled() -> None:
    found = ends_of(
        "gkd",
        {"lmbda": 1.0},
        beta={"type": "categorical", "choices": [0.0, 0.1, 0.9]},
        temperature={"type": "float", "low": 0.3, "high": 1.0, "step": 0.1},
        weight_decay={"type": "float", "low": 0.0, "high": 0.1},
    )
    assert found.heaviest["beta"] == 0.1
    assert found.heaviest["temperature"] == pytest.approx(0.7)
    assert found.heaviest["weight_decay"] == pytest.approx(0.05)
