"""Arms that share documents and no seeds."""

from __future__ import annotations

import numpy as np
import pytest

from sweeper.analysis.stats.crossed_effects import estimate
from sweeper.analysis.stats.unpaired import estimate_unpaired
from tests.support.documents import alike


def arms(
    rng: np.random.Generator, seeds: tuple[int, int], documents: int, seed: float
) -> list[np.ndarray[tuple[int, int], np.dtype[np.float64]]]:
    """Two arms with the same mean, on documents of the same difficulty."""
    difficulty = rng.normal(0, 1, (1, documents))
    return [
        difficulty
        + rng.normal(0, 0.5, (1, documents))
        + rng.normal(0, seed, (count, 1))
        + rng.normal(0, 0.7, (count, documents))
        for count in seeds
    ]


@pytest.mark.parametrize("seeds", [(3, 3), (5, 2)])
@pytest.mark.parametrize("seed", [0.0, 0.3])
def test_the_interval_holds_the_truth_as_often_as_it_says(
    seeds: tuple[int, int], seed: float
) -> None:
    rng = np.random.default_rng([*seeds, round(10 * seed)])
    times, covered = 400, 0
    for _ in range(times):
        found = estimate_unpaired(*arms(rng, seeds, 80, seed), alike(80))
        covered += found.low <= 0 <= found.high
    # 0.95, less three standard errors of 400 draws; with so few seeds it may be wider than needed.
    assert covered / times >= 0.917


def test_the_documents_are_paired_and_the_seeds_are_not() -> None:
    rng = np.random.default_rng(0)
    documents = alike(200)
    ours, theirs = arms(rng, (4, 4), 200, 0.3)
    found = estimate_unpaired(ours, theirs, documents)
    assert found.mean == pytest.approx(ours.mean() - theirs.mean())
    # What documents have in common does not count; another order of the seeds changes nothing.
    hard = rng.normal(0, 50, (1, 200))
    assert estimate_unpaired(ours + hard, theirs + hard, documents).stderr == pytest.approx(
        found.stderr
    )
    assert estimate_unpaired(ours[::-1], theirs, documents).low == pytest.approx(found.low)


def test_the_variance_is_the_sum_of_its_parts() -> None:
    rng = np.random.default_rng(1)
    documents = alike(300)
    ours, theirs = arms(rng, (3, 5), 300, 0.5)
    columns = ours.mean(axis=0) - theirs.mean(axis=0)
    expected = columns.var(ddof=1) / 300
    for one in (ours, theirs):
        seeds, rows = len(one), one.mean(axis=1)
        rest = one - one.mean(axis=0) - rows[:, None] + one.mean()
        mean_square = (rest**2).sum() / ((seeds - 1) * 299)
        expected += rows.var(ddof=1) / seeds - mean_square / (seeds * 300)
    assert estimate_unpaired(ours, theirs, documents).stderr ** 2 == pytest.approx(expected)


def test_one_seed_is_for_that_student_only() -> None:
    rng = np.random.default_rng(2)
    ours, theirs = arms(rng, (1, 1), 50, 3.0)
    found = estimate_unpaired(ours, theirs, alike(50))
    paired = estimate(ours - theirs, alike(50), draws=0)
    assert (found.low, found.high) == pytest.approx((paired.low, paired.high))
