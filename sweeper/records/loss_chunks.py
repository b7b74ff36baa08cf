"""Sizes of the pieces that a loss takes its positions in; a training and its forecast share them.

More positions at a time read the heads less often, and take more memory.
"""

from __future__ import annotations

MIB = 2**20
LEAST = 256 * MIB
"""Bytes of a chunk's logits, both models' together, on a CPU and where memory is short."""
MOST = 2048 * MIB
"""Bytes of a chunk's logits where there is room. At a vocabulary of 152,000 these are 1,766
positions, for which reading a head takes less time than multiplying by it."""
SHARE = 8
"""A chunk's logits take at most one part in this many of the free memory."""


def chunk_budget(free: float) -> int:
    """Return how many bytes the logits of a chunk may take on an accelerator.

    It is a power of two, so that two trainings with nearly the same memory have the same chunks.

    Args:
        free: Bytes that are free while the loss is computed.
    """
    budget = LEAST
    while 2 * budget <= min(MOST, free / SHARE):
        budget *= 2
    return budget


def rows_of_chunk(positions: int, row: int, budget: int) -> int:
    """Return the positions of a chunk: chunks are equal, but for the last.

    Args:
        positions: Positions of all chunks.
        row: Bytes of one model's logits at one position.
        budget: Bytes of a chunk's logits, both models' together.
    """
    chunks = max(1, -(-2 * row * positions // budget))
    return max(1, -(-positions // chunks))


def rows_of_block(rows: int, row: int, budget: int, *, cached: bool = False) -> int:
    """Return the positions of a chunk whose loss is taken at once.

    Args:
        rows: Positions of the chunk.
        row: Bytes of one model's logits at one position.
        budget: Bytes of a chunk's logits.
        cached: True for one CPU thread, which is fastest on what its cache holds. Several wait for
            each other after each operation, so these had better be few, as on an accelerator.
    """
    size = 2 * MIB if cached else budget // 8
    return max(1, min(rows, size // row))
