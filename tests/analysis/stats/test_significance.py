"""Tests, adjustments and conclusions, against libraries, published numbers and draws."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from sweeper.analysis.stats.crossed_effects import Estimate, estimate, reach
from sweeper.analysis.stats.significance import (
    ALPHA,
    Conclusion,
    conclude,
    equivalence_p,
    holm,
    p_value,
    smallest_difference,
)
from tests.support.documents import alike


def difference(mean: float, stderr: float) -> Estimate:
    """Of one seed and 21 documents."""
    reach = float(stats.t.isf(0.025, 20)) * stderr
    return Estimate(
        mean=mean, seeds=1, documents=21, variance_of_seeds=0.0, variance_of_documents=stderr**2,
        freedom_of_documents=20, low=mean - reach, high=mean + reach,
    )  # fmt: skip


def test_one_seed_is_a_t_test_over_documents() -> None:
    scores = np.random.default_rng(0).normal(0.2, 1.0, (1, 50))
    found = p_value(estimate(scores, alike(50)))
    assert found == pytest.approx(stats.ttest_1samp(scores[0], 0.0).pvalue)


def test_two_arms_with_one_seed_are_a_paired_t_test() -> None:
    from statsmodels.stats.weightstats import ttost_paired

    rng = np.random.default_rng(2)
    ours, theirs = rng.normal(0.5, 0.2, 60), rng.normal(0.45, 0.2, 60)
    found = estimate((ours - theirs)[None], alike(60))
    assert p_value(found) == pytest.approx(stats.ttest_rel(ours, theirs).pvalue)
    expected, *_ = ttost_paired(ours, theirs, -0.1, 0.1)
    assert equivalence_p(found, 0.1) == pytest.approx(expected)


def test_holms_example() -> None:
    # Holm (1979), as R gives it: p.adjust(c(0.01, 0.04, 0.03, 0.005), "holm").
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == []


def test_equivalence_is_two_one_sided_tests() -> None:
    found = difference(0.01, 0.02)
    upper = stats.t.sf((0.05 - 0.01) / 0.02, 20)
    lower = stats.t.sf((0.05 + 0.01) / 0.02, 20)
    assert equivalence_p(found, 0.05) == pytest.approx(max(upper, lower))
    assert equivalence_p(difference(0.06, 0.001), 0.05) > 0.99


@pytest.mark.parametrize(
    ("mean", "stderr", "margin", "expected"),
    [
        (0.10, 0.02, None, "better"),
        (-0.10, 0.02, None, "worse"),
        (0.01, 0.02, None, "inconclusive"),
        (0.01, 0.02, 0.05, "equivalent"),
        (0.01, 0.02, 0.03, "inconclusive"),
        (0.10, 0.02, 0.05, "better"),
        # More than nothing, and less than what matters.
        (0.01, 0.002, 0.05, "equivalent"),
    ],
)
def test_conclusions(
    mean: float, stderr: float, margin: float | None, expected: Conclusion
) -> None:
    found = difference(mean, stderr)
    assert conclude(found, p_value(found), margin) == expected


def test_what_is_equal_everywhere_is_no_difference() -> None:
    same = estimate(np.zeros((3, 10)), alike(10))
    assert p_value(same) == 1.0
    assert conclude(same, 1.0, None) == "inconclusive"
    assert conclude(same, 1.0, 0.01) == "equivalent"
    always = estimate(np.full((3, 10), 0.5), alike(10))
    assert conclude(always, p_value(always), 0.01) == "better"
    assert p_value(always) == pytest.approx(stats.binomtest(10, 10).pvalue)


@pytest.mark.parametrize("documents", [2, 8, 100, 5_000])
@pytest.mark.parametrize("seeds", [1, 2, 5])
def test_what_is_far_from_equal_has_a_small_p(seeds: int, documents: int) -> None:
    scores = np.random.default_rng(0).normal(1e6, 1.0, (seeds, documents))
    assert 0.0 <= p_value(estimate(scores, alike(documents), draws=0)) < 1e-4


def test_one_document_shows_nothing() -> None:
    for scores in (np.ones((1, 1)), np.ones((3, 1)), np.array([[0.5], [0.51], [0.49]])):
        found = estimate(scores, alike(1))
        assert p_value(found) == 1.0
        assert equivalence_p(found, 10.0) == 0.5


def test_the_smallest_difference_is_that_of_a_t_test() -> None:
    # One seed: a paired t-test of 50 documents. statsmodels' TTestPower().solve_power(nobs=50,
    # alpha=0.05, power=0.8) is 0.4043 standard deviations.
    found = smallest_difference(0.0, 0.5, 0.5, seeds=1, documents=50)
    assert found == pytest.approx(0.4043, abs=2e-3)


def test_more_documents_do_not_replace_seeds() -> None:
    def of(seeds: int, documents: int) -> float:
        return smallest_difference(4e-4, 0.1, 0.1, seeds=seeds, documents=documents)

    assert of(3, 1_000) > of(3, 100_000) > of(6, 1_000)
    assert smallest_difference(4e-4, 0.1, 0.1, seeds=3, documents=200, comparisons=3) > of(3, 200)


@pytest.mark.parametrize(("seeds", "seed"), [(3, 0.0), (3, 0.1), (5, 0.03)])
def test_equal_arms_are_seldom_different(seeds: int, seed: float) -> None:
    # The mean squares of normal scores, of 500 documents with deviations of 0.5 and 0.7, drawn.
    rng, times, documents = np.random.default_rng(1), 20_000, 500
    rest = 0.98 / seeds / documents
    of_seeds, of_documents = 2 * seed**2 / seeds + rest, 0.5 / documents + rest
    squares = [
        mean * rng.chisquare(freedom, times) / freedom
        for mean, freedom in (
            (of_seeds, seeds - 1),
            (of_documents, documents - 1),
            (rest, (seeds - 1) * (documents - 1)),
        )
    ]
    margin = reach(
        squares[0],
        np.maximum(squares[1] - squares[2], 0.0),
        ALPHA / 2,
        seeds=seeds,
        freedom_of_documents=documents - 1,
    )
    means = rng.normal(0, np.sqrt(of_seeds + of_documents - rest), times)
    assert 0.03 <= (np.abs(means) > margin).mean() <= 0.06


def test_a_difference_as_large_as_predicted_is_found_as_often_as_predicted() -> None:
    seeds, documents, times = 5, 100, 600
    size = smallest_difference(0.05**2, 0.3**2, 0.4**2, seeds=seeds, documents=documents)
    rng = np.random.default_rng(0)
    found = 0
    for _ in range(times):
        scores = (
            size
            + rng.normal(0, 0.05, (seeds, 1))
            + rng.normal(0, 0.3, (1, documents))
            + rng.normal(0, 0.4, (seeds, documents))
        )
        p = p_value(estimate(scores, alike(documents), draws=0))
        found += p <= ALPHA
    assert 0.74 <= found / times <= 0.86
