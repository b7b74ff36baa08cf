"""What every process of the benchmark imports, imported once; no device is touched."""

from __future__ import annotations

import threading

from tqdm import tqdm

import benchmarks.gpu.forecast
import benchmarks.gpu.sampling
import benchmarks.gpu.training  # noqa: F401

# Its own lock is a semaphore of the system, which a process that ends at once would leave behind.
tqdm.set_lock(threading.RLock())
