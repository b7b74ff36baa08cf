"""Rollouts that were cut, and rollouts that are much longer than the references."""

from __future__ import annotations

from sweeper.analysis.rollout_stats import rollout_stats
from tests.support.example_study import arm, completed, study, trial
from tests.support.practice_examples import sampled


def test_cut_and_long_rollouts_are_found() -> None:
    trials = [
        sampled(0, 0.5, truncated=0.19, length=8.2),
        sampled(1, 0.5, truncated=0.21, length=8.3, max_new_tokens=9),
    ]
    found = rollout_stats(study([arm("gkd", trials)]))
    assert found is not None
    assert [t.number for t in found.truncated] == [1]
    assert found.truncated[0].max_new_tokens == 9
    # The references of the example have 4.1 tokens.
    assert [t.number for t in found.longer] == [1]


def test_offline_trials_and_old_records_say_nothing() -> None:
    assert rollout_stats(study([arm("sft", [sampled(0, 0.5)])])) is None
    assert rollout_stats(study([arm("gkd", [trial(0, completed(0.5))])])) is None
