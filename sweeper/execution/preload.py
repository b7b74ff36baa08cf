"""Imported once by the forkserver, so that each trial starts with its libraries loaded.

It only imports: no tensor operation, no device, no model. One parallel operation here would leave
threads behind that deadlock every child.
"""

from __future__ import annotations

import traceback

failure: str | None = None
"""Why the libraries could not be imported. Python would swallow it; the worker reports it."""

try:
    import threading

    from tqdm import tqdm

    import sweeper.trial  # noqa: F401

    # Its own lock is a semaphore of the system, which a job that is killed would leave behind.
    tqdm.set_lock(threading.RLock())
except Exception:
    failure = traceback.format_exc()
