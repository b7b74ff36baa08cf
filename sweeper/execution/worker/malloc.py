"""Setting of the C library's allocator for a process that trains on a CPU."""

from __future__ import annotations

import ctypes

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4
"""Parameters of ``mallopt(3)``."""


def keep_freed_memory() -> bool:
    """Keep what is freed for the next allocation, for the rest of the process.

    By default glibc gives each large tensor back to the system when it is freed, and the system
    hands out zeroed pages for the next one: for each step of a training that takes the same again.
    The process then holds on to its peak until it ends.

    Returns:
        True if the C library has the setting; others are left as they are.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    return bool(mallopt(_MMAP_MAX, 0) and mallopt(_TRIM_THRESHOLD, -1))
