"""Means over seeds and documents, against closed forms and against what is drawn."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from sweeper.analysis.stats.crossed_effects import Documents, estimate
from tests.support.documents import alike


def drawn(
    seeds: int,
    documents: int,
    *,
    seed: float = 0.0,
    document: float = 0.0,
    rest: float = 1.0,
    of: int = 0,
) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    """Scores around 0 with these standard deviations."""
    rng = np.random.default_rng(of)
    found: np.ndarray[tuple[int, int], np.dtype[np.float64]] = (
        rng.normal(0, seed, (seeds, 1))
        + rng.normal(0, document, (1, documents))
        + rng.normal(0, rest, (seeds, documents))
    )
    return found


def test_one_seed_is_a_t_interval_over_documents() -> None:
    scores = drawn(1, 40)
    found = estimate(scores, alike(40), draws=0)
    expected = stats.ttest_1samp(scores[0], 0.0).confidence_interval()
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    assert found.freedom_of_documents == 39


def test_the_variance_is_that_of_the_mean_squares() -> None:
    scores = drawn(4, 30, seed=0.5, document=1.0, rest=0.7)
    mean, rows, columns = scores.mean(), scores.mean(axis=1), scores.mean(axis=0)
    of_seeds = 30 * ((rows - mean) ** 2).sum() / 3
    of_documents = 4 * ((columns - mean) ** 2).sum() / 29
    rest = ((scores - rows[:, None] - columns + mean) ** 2).sum() / (3 * 29)
    found = estimate(scores, alike(30), draws=0)
    assert found.stderr == pytest.approx(math.sqrt((of_seeds + of_documents - rest) / 120))
    assert found.variance_of_seeds == pytest.approx(of_seeds / 120)
    assert found.variance_of_documents == pytest.approx((of_documents - rest) / 120)


def test_the_mean_squares_are_those_of_a_textbook() -> None:
    # Shrout and Fleiss (Psychological Bulletin 86, 1979), six targets and four judges: BMS 11.24,
    # JMS 32.49, EMS 1.02.
    judges = np.array(
        [[9, 6, 8, 7, 10, 6], [2, 1, 4, 1, 5, 2], [5, 3, 6, 2, 6, 4], [8, 2, 8, 6, 9, 7]], float
    )
    found = estimate(judges, alike(6), draws=0)
    assert 24 * found.variance_of_seeds == pytest.approx(32.49, abs=0.005)
    assert 24 * found.variance_of_documents == pytest.approx(11.24 - 1.02, abs=0.01)


def test_the_standard_error_is_that_of_a_mixed_model() -> None:
    import pandas
    from statsmodels.regression.mixed_linear_model import MixedLM

    scores = drawn(5, 12, seed=0.8, document=1.0, rest=0.5, of=4)
    rows = [(s, d, scores[s, d]) for s in range(5) for d in range(12)]
    table = pandas.DataFrame(rows, columns=["seed", "document", "score"])
    crossed = {"seed": "0 + C(seed)", "document": "0 + C(document)"}
    model = MixedLM.from_formula("score ~ 1", table, groups=np.ones(60), vc_formula=crossed)
    fitted = model.fit(reml=True)
    found = estimate(scores, alike(12), draws=0)
    assert found.stderr == pytest.approx(float(fitted.bse["Intercept"]), rel=1e-3)


@pytest.mark.parametrize("shape", [(1, 1), (1, 2), (2, 1), (2, 2), (3, 1)])
def test_few_seeds_and_documents_give_finite_intervals(shape: tuple[int, int]) -> None:
    found = estimate(drawn(*shape), alike(shape[1]))
    assert math.isfinite(found.low) and math.isfinite(found.high)
    assert found.low <= found.mean <= found.high


def test_seeds_that_differ_are_no_documents() -> None:
    # One seed is far from the others: however many documents there are, three seeds are three.
    scores = np.zeros((3, 10_000)) + np.array([[0.0], [0.0], [0.3]])
    found = estimate(scores, alike(10_000))
    assert found.stderr == pytest.approx(0.1)
    assert found.reach(0.025) == pytest.approx(0.1 * stats.t.isf(0.025, 2))
    assert found.tail(found.reach(0.001)) == pytest.approx(0.001)
    assert found.low < 0 < found.high


def test_documents_that_repeat_count_once() -> None:
    scores = drawn(3, 50, document=1.0, rest=0.3)
    once = estimate(scores, alike(50), draws=0)
    twice = np.concatenate([scores, scores], axis=1)
    groups = [str(number % 50) for number in range(100)]
    together = Documents.of_tasks(["task"] * 100, [1.0] * 100, groups)
    grouped = estimate(twice, together, draws=0)
    assert (grouped.mean, grouped.stderr) == pytest.approx((once.mean, once.stderr))
    assert grouped.freedom_of_documents == once.freedom_of_documents
    assert estimate(twice, alike(100), draws=0).stderr < once.stderr


def test_tasks_count_by_their_weight_and_differ_without_being_chance() -> None:
    # All of one task's documents score 1, all of the other's 0: nothing is left to chance.
    tasks = ["easy"] * 10 + ["hard"] * 30
    scores = np.array([[1.0] * 10 + [0.0] * 30] * 2)
    documents = Documents.of_tasks(tasks, [0.3] * 10 + [1 / 30] * 30)
    found = estimate(scores, documents)
    assert (found.mean, found.stderr) == pytest.approx((0.75, 0.0))
    assert (found.low, found.high) == pytest.approx((0.75, 0.75))


def test_two_tasks_vary_as_two_independent_means() -> None:
    scores = drawn(1, 60, rest=1.0)
    scores[:, :20] *= 3
    documents = Documents.of_tasks(["a"] * 20 + ["b"] * 40, [1 / 20] * 20 + [1 / 40] * 40)
    found = estimate(scores, documents, draws=0)
    parts = [stats.sem(scores[0, :20]) / 2, stats.sem(scores[0, 20:]) / 2]
    assert found.stderr == pytest.approx(math.hypot(*parts))


def test_the_bootstrap_follows_the_skewness() -> None:
    rng = np.random.default_rng(1)
    scores = (rng.random((1, 60)) < 0.05).astype(float).repeat(3, axis=0)
    found = estimate(scores, alike(60))
    symmetric = estimate(scores, alike(60), draws=0)
    assert found.high - found.mean > found.mean - found.low
    assert found.high - found.low == pytest.approx(symmetric.high - symmetric.low, rel=0.1)


def test_the_same_seed_gives_the_same_interval() -> None:
    scores = drawn(3, 40, seed=0.2)
    documents = alike(40)
    assert estimate(scores, documents, seed=4) == estimate(scores, documents, seed=4)
    assert estimate(scores, documents, seed=4) != estimate(scores, documents, seed=5)


@pytest.mark.parametrize(
    ("seed", "document", "rest"), [(0.0, 0.5, 1.0), (0.1, 0.3, 0.5), (0.3, 0.1, 0.5)]
)
def test_intervals_hold_the_truth_as_often_as_they_say(
    seed: float, document: float, rest: float
) -> None:
    documents, times = alike(100), 600
    held = sum(
        found.low <= 0 <= found.high
        for number in range(times)
        for found in [
            estimate(
                drawn(5, 100, seed=seed, document=document, rest=rest, of=number),
                documents,
                draws=400,
                seed=number,
            )
        ]
    )
    # Three standard errors of a share of 600 around the benchmark's 0.93 to 0.97.
    assert 0.91 <= held / times <= 0.99


@pytest.mark.parametrize("seeds", [1, 2, 3, 4, 6, 8, 10, 30])
def test_the_tail_is_the_inverse_of_the_reach(seeds: int) -> None:
    found = estimate(drawn(seeds, 100, seed=0.1, document=0.5), alike(100), draws=0)
    for tail in (1e-12, 1e-4, 0.025, 0.3):
        assert found.tail(found.reach(tail)) == pytest.approx(tail, rel=1e-6)


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="Expected 3 documents, got 4"):
        estimate(np.zeros((2, 4)), alike(3))
    with pytest.raises(ValueError, match="shape"):
        estimate(np.zeros((0, 3)), alike(3))
