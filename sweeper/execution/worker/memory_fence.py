"""The part of a GPU's memory that a job's process may allocate next to others."""

from __future__ import annotations

BESIDE_ALLOCATOR = 0.6 * 2**30
"""Bytes that a process has on a GPU next to what torch allocates: CUDA's context, loaded kernels,
and the buffers of libraries. Assumed, not measured; the forecast of ``sweeper check`` counts as
many."""


def allocator_fraction(share: float, total: int) -> float | None:
    """Return the fraction of a GPU's memory that torch may allocate; None if it has all of it.

    Torch's limit does not count what a process has beside its allocator. So that the shares of all
    processes fit together, each keeps that within its own.

    Args:
        share: Share of the GPU's memory that the process may take.
        total: Bytes of the GPU's memory.
    """
    if share >= 1:
        return None
    return max(share - BESIDE_ALLOCATOR / total, share / 2)
