"""Imported once by the forkserver, so that each trial starts with its libraries loaded.

It only imports: no tensor operation, no device, no model. One parallel operation here would leave
threads behind that deadlock every child.
"""

from __future__ import annotations

import os
import traceback

from sweeper.foundation.environment import clear_leftovers

# Before the libraries are imported, which is when they read it. Nothing is sent but what a model
# or a data set on a hub needs; and no weights come from another revision than the one asked for.
for _name in ("HF_HUB_DISABLE_TELEMETRY", "DISABLE_SAFETENSORS_CONVERSION"):
    os.environ.setdefault(_name, "1")

clear_leftovers(os.environ)
# Opens a Ray cluster, which is no business of jobs.
os.environ.pop("RAY_AUTH_TOKEN", None)

failure: str | None = None
"""Why the libraries could not be imported. Python would swallow it; the worker reports it."""

try:
    import threading

    from tqdm import tqdm

    import sweeper.execution.worker.run  # noqa: F401

    # Its own lock is a semaphore of the system, which a job that is killed would leave behind.
    tqdm.set_lock(threading.RLock())
except Exception:
    failure = traceback.format_exc()
