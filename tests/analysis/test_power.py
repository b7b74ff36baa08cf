"""What a design can show, from variances that are known."""

from __future__ import annotations

import numpy as np
import pytest

from sweeper.analysis import power
from sweeper.config.settings import Method


def test_variances_of_winners_are_those_they_were_drawn_with() -> None:
    rng = np.random.default_rng(0)
    drawn = [
        rng.normal(0, 0.3, (40, 1)) + rng.normal(0, 0.5, (1, 400)) + rng.normal(0, 0.7, (40, 400))
        for _ in range(3)
    ]
    found = power.from_finals(drawn)
    assert found is not None
    [variances], basis = found
    assert variances.of_seeds == pytest.approx(0.09, rel=0.3)
    assert variances.of_documents == pytest.approx(0.25, rel=0.1)
    assert variances.of_rest == pytest.approx(0.49, rel=0.02)
    assert "measured" in basis
    assert power.from_finals([np.zeros((1, 5))]) is None, "one seed knows nothing of others"


def test_variances_of_trials_are_those_of_their_documents() -> None:
    ours, theirs = {"t/0": 1.0, "t/1": 0.0, "t/2": 1.0}, {"t/0": 0.0, "t/1": 0.0, "t/2": 1.0}
    found = power.from_trials([ours, theirs])
    assert found is not None
    [variances], _ = found
    assert variances.of_documents + variances.of_rest == pytest.approx(1 / 3)
    assert power.from_trials([ours]) is None


@pytest.mark.parametrize(
    ("methods", "pairs"),
    [(["gkd", "sft", "seqkd"], 2), (["sft", "seqkd", "supervised_kd"], 3), (["gkd"], 0)],
)
def test_the_claim_is_about_so_many_pairs(methods: list[Method], pairs: int) -> None:
    assert power.comparisons(methods) == pairs
    assert power.comparisons(methods, [("gkd", "start")]) == 1, "declared ones replace them"


def test_more_seeds_and_documents_show_less() -> None:
    variances, basis = power.assumed()
    few = power.design(100, 4, 2, variances, basis)
    many = power.design(1_000, 4, 2, variances, basis)
    assert [row.seeds for row in few.rows] == [3, 4, 5, 10]
    assert few.rows[0].differences > few.smallest > many.smallest
