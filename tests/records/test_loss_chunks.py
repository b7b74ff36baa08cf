"""Sizes of the loss's chunks, by vocabulary and free memory."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sweeper.records.loss_chunks import (
    LEAST,
    MIB,
    MOST,
    chunk_budget,
    rows_of_block,
    rows_of_chunk,
)

GIB = 1024 * MIB


@pytest.mark.parametrize(
    ("free", "vocabulary", "budget", "rows", "block"),
    [
        (0.5 * GIB, 152_000, 256 * MIB, 219, 55),
        (3.9 * GIB, 152_000, 256 * MIB, 219, 55),
        (4 * GIB, 152_000, 512 * MIB, 432, 110),
        (8 * GIB, 152_000, 1024 * MIB, 863, 220),
        (16 * GIB, 152_000, 2048 * MIB, 1_639, 441),
        (120 * GIB, 152_000, 2048 * MIB, 1_639, 441),
        (120 * GIB, 49_152, 2048 * MIB, 5_462, 1_365),
        (4 * GIB, 32_000, 512 * MIB, 2_048, 524),
        (120 * GIB, 18, 2048 * MIB, 16_384, 16_384),
    ],
)
def test_chunks(free: float, vocabulary: int, budget: int, rows: int, block: int) -> None:
    row = 4 * vocabulary
    assert chunk_budget(free) == budget
    assert rows_of_chunk(16_384, row, budget) == rows
    assert rows_of_block(rows, row, budget) == block


@given(st.floats(0, 200 * GIB), st.floats(0.51, 1.0))
def test_a_budget_follows_memory_in_few_steps(free: float, share: float) -> None:
    budget = chunk_budget(free)
    assert LEAST <= budget <= MOST
    assert budget == LEAST or budget <= free / 8
    # What else is in memory moves it by one step at most.
    assert chunk_budget(share * free) in (budget, budget // 2)


@given(
    st.integers(0, 40_000),
    st.integers(1, 300_000),
    st.sampled_from([LEAST, 2 * LEAST, MOST, 1]),
)
def test_chunks_and_blocks_fit(positions: int, vocabulary: int, budget: int) -> None:
    row = 4 * vocabulary
    rows = rows_of_chunk(positions, row, budget)
    assert 1 <= rows <= max(1, positions)
    # Equal chunks are rounded up by a row.
    assert 2 * row * (rows - 1) <= budget
    block = rows_of_block(rows, row, budget)
    assert 1 <= block <= rows
    assert block == 1 or 8 * row * block <= budget
    assert rows_of_block(rows, row, budget, cached=True) * row <= max(2 * MIB, row)
