"""A trial whose engine of rollouts gives other log-probabilities than its training warns, once."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sweeper.config.loading import load_study
from sweeper.distillation.sampling import engines
from sweeper.distillation.sampling.rollouts import Rollout
from sweeper.execution.worker.run import run_job
from sweeper.records.layout import JobPaths
from tests.support.trial_jobs import trial_spec

honest = engines.generate_continuously


def off_by_a_tenth(model: Any, prompts: Sequence[Sequence[int]], **options: Any) -> list[Rollout]:
    return [
        replace(rollout, log_probs=tuple(value - 0.1 for value in rollout.log_probs or ()))
        for rollout in honest(model, prompts, **options)
    ]


@pytest.mark.slow
@pytest.mark.parametrize("engine", [honest, off_by_a_tenth])
def test_a_difference_beyond_rounding_is_told_once(
    write_study: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    engine: engines.Engine,
) -> None:
    monkeypatch.setattr(engines, "generate_continuously", engine)
    arms = {"gkd": {"settings": {"lmbda": 1.0, "max_new_tokens": 8}}}
    spec = trial_spec(load_study(write_study(arms=arms)), "gkd")
    origin = spec.origin.model_copy(update={"rollout_engine": "transformers"})
    outcome = run_job(spec.model_copy(update={"origin": origin}))
    assert outcome.state == "completed", outcome.failure
    rollouts = outcome.rollouts
    assert rollouts is not None and rollouts.logprob_diff is not None
    rows = JobPaths(Path(spec.place.directory)).progress.read_text().splitlines()
    warned = [row for row in map(json.loads, rows) if row.get("warnings")]
    printed = [line for line in capsys.readouterr().out.splitlines() if line.startswith("Warning:")]
    assert rollouts.logprob_diff_limit == 1e-3
    if engine is honest:
        assert rollouts.logprob_diff < 1e-4
        assert (outcome.notes, warned, printed) == ((), [], [])
        return
    assert rollouts.logprob_diff == pytest.approx(0.1, rel=1e-2)
    [note] = outcome.notes
    assert "differ by 0.1 nats a token on average, more than 0.001" in note
    assert [row["warnings"] for row in warned] == [[note]]
    assert printed == [f"Warning: {note}."]
