"""How sure the share of a gap is."""

from __future__ import annotations

import numpy as np
import pytest

from sweeper.analysis.stats.crossed_effects import estimate
from sweeper.analysis.stats.fieller import ratio_interval
from tests.support.documents import alike


def test_over_a_gap_that_is_known_it_is_the_interval_of_the_numerator() -> None:
    scores = (np.random.default_rng(0).random((4, 50)) < 0.6).astype(float)
    documents = alike(50)
    found = ratio_interval(scores, np.full((1, 50), 0.5), documents)
    expected = estimate(scores, documents, draws=0)
    assert found == pytest.approx((2 * expected.low, 2 * expected.high), abs=1e-6)


def test_what_both_have_in_common_cancels() -> None:
    easy = np.random.default_rng(0).random((1, 50))
    found = ratio_interval(np.repeat(0.5 * easy, 3, axis=0), easy, alike(50))
    assert found == pytest.approx((0.5, 0.5))


def test_a_gap_that_may_be_none_gives_no_interval() -> None:
    rng = np.random.default_rng(0)
    documents = alike(50)
    assert ratio_interval(rng.random((3, 50)), rng.normal(0, 1, (1, 50)), documents) is None


def test_it_holds_the_truth_as_often_as_it_says() -> None:
    rng = np.random.default_rng(1)
    documents = alike(60)
    held = 0
    for _ in range(60):
        easy = rng.normal(0, 0.2, 60)
        gap = 0.6 + easy + rng.normal(0, 0.3, 60)
        ours = 0.3 + 0.5 * easy + rng.normal(0, 0.05, (4, 1)) + rng.normal(0, 0.3, (4, 60))
        found = ratio_interval(ours, gap[None], documents)
        assert found is not None
        held += found[0] <= 0.5 <= found[1]
    assert held >= 53
