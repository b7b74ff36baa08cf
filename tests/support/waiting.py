"""Waiting for what other processes do."""

from __future__ import annotations

import time
from collections.abc import Callable

_PATIENCE = 120.0
"""Seconds to wait for what happens soon, also on a machine with much to do."""


def wait_until(happened: Callable[[], bool], what: str, patience: float = _PATIENCE) -> None:
    """Look until it has happened."""
    deadline = time.monotonic() + patience
    while not happened():
        assert time.monotonic() < deadline, f"waited {patience:g} s for {what}"
        time.sleep(0.01)
