"""What was sampled, and how scores go with it."""

from __future__ import annotations

import pytest

from sweeper.analysis.rollout_stats import rollout_stats
from sweeper.analysis.stats.rank_tests import rank_correlation, rank_sum_p
from tests.support.example_study import arm, completed, study, trial
from tests.support.practice_examples import sampled


def test_scores_that_rise_with_the_share_are_told() -> None:
    trials = [sampled(n, 0.4 + n / 50, lmbda=0.1 + n / 12, length=40 + n % 2) for n in range(10)]
    found = rollout_stats(study([arm("gkd", trials)]))
    assert found is not None
    share, length = found.trends
    assert share.quantity == "on_policy_share" and share.is_told
    assert share.correlation.value == pytest.approx(1.0)
    assert length.quantity == "length" and not length.is_told
    assert not found.truncated


def test_where_lower_is_better_a_falling_score_is_a_good_sign() -> None:
    trials = [
        sampled(n, 0.9 - n / 20, lmbda=0.1 + n / 12, higher_is_better=False) for n in range(8)
    ]
    found = rollout_stats(study([arm("gkd", trials)], higher_is_better=False))
    assert found is not None and found.trends[0].correlation.value == pytest.approx(1.0)


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


def test_few_trials_tell_nothing_and_equal_ones_neither() -> None:
    assert rank_correlation([1, 2, 3, 4], [1, 2, 3, 4]) is None
    assert rank_correlation([1, 2, 3, 4, 5], [1, 1, 1, 1, 1]) is None
    assert rank_sum_p([1, 2, 3], [4, 5, 6, 7]) is None
    assert rank_sum_p([1] * 4, [1] * 4) == 1.0


def test_p_is_exact_for_few_trials() -> None:
    found = rank_correlation([1, 2, 3, 4, 5], [1, 2, 3, 4, 5])
    assert found is not None and found.p == pytest.approx(2 / 120)
    assert rank_sum_p([1, 2, 3, 4], [5, 6, 7, 8]) == pytest.approx(2 / 70)
