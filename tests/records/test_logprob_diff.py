"""How far an engine's log-probabilities may be from the training's before a trial warns."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sweeper.config.loading import load_study
from sweeper.config.rollouts import RolloutEngine
from sweeper.records.logprob_diff import (
    EXACT_LIMIT,
    ROUNDED_LIMIT,
    logprob_diff_limit,
    logprob_diff_warning,
)
from tests.support.trial_jobs import trial_spec


@pytest.mark.parametrize(
    ("changes", "engine", "limit"),
    [
        ({}, "transformers", EXACT_LIMIT),
        ({"training": {"bf16": True}}, "transformers", ROUNDED_LIMIT),
        ({"student": {"model": "builtin/adder-student", "dtype": "bfloat16"}}, "transformers",
         ROUNDED_LIMIT),
        ({"evaluation": {"selection": "selection.yaml", "dtype": "bfloat16"}}, "transformers",
         EXACT_LIMIT),
        ({"evaluation": {"selection": "selection.yaml", "dtype": "bfloat16"}}, "vllm",
         ROUNDED_LIMIT),
    ],
)  # fmt: skip
def test_the_limit_follows_the_precision(
    write_study: Callable[..., Path], changes: dict[str, Any], engine: RolloutEngine, limit: float
) -> None:
    arms = {"gkd": {"settings": {"lmbda": 1.0}}}
    spec = trial_spec(load_study(write_study(arms=arms, **changes)), "gkd")
    assert logprob_diff_limit(spec.origin, spec.settings, engine) == limit


def test_only_a_mean_above_the_limit_is_a_warning() -> None:
    assert logprob_diff_warning(3, {}, 0.05) is None
    assert logprob_diff_warning(3, {"rollout_logprob_diff": 0.05}, 0.05) is None
    warning = logprob_diff_warning(3, {"rollout_logprob_diff": 0.2}, 0.05)
    assert warning is not None and warning.startswith("at step 3")
    assert "0.2 nats a token on average, more than 0.05" in warning
