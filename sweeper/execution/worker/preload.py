"""Imported once by the forkserver, so that each trial starts with its libraries loaded.

It only imports: no tensor operation, no device, no model. One parallel operation here would leave
threads behind that deadlock every child. CUDA, initialized here, would work in none of them.
"""

from __future__ import annotations

import os
import traceback

from sweeper.execution.worker.gpu_memory import open_gpu_files
from sweeper.foundation.environment import clear_leftovers

# Before the libraries are imported, which is when they read it. Nothing is sent but what a model
# or a data set on a hub needs; and no weights come from another revision than the one asked for.
for _name in ("HF_HUB_DISABLE_TELEMETRY", "DISABLE_SAFETENSORS_CONVERSION"):
    os.environ.setdefault(_name, "1")

clear_leftovers(os.environ)
# Opens a Ray cluster, which is no business of jobs.
os.environ.pop("RAY_AUTH_TOKEN", None)

failure: str | None = None
"""Why no job can start from here. Python would swallow it; the worker reports it."""
warning: str | None = None
"""What may keep jobs from their GPUs; the worker writes it into the job's log."""

try:
    import threading

    import torch
    from tqdm import tqdm

    import sweeper.execution.worker.run  # noqa: F401

    # Its own lock is a semaphore of the system, which a job that is killed would leave behind.
    tqdm.set_lock(threading.RLock())
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        raise RuntimeError(
            "An imported library has initialized CUDA in the process that jobs are forked from, so"
            " that no job can use a GPU: see which one does with python -X importtime, and take it"
            " out of this environment."
        )
    # A library may have opened them without torch, and only to look at them.
    if opened := open_gpu_files():
        warning = (
            "The process that jobs are forked from has GPUs open"
            f" ({', '.join(dict.fromkeys(opened))}). If CUDA fails with an initialization error,"
            " a library that was imported there has initialized it."
        )
except Exception:
    failure = traceback.format_exc()
