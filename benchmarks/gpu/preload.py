"""What every process of the benchmark imports, imported once; no device is touched."""

from __future__ import annotations

import benchmarks.gpu.forecast
import benchmarks.gpu.sampling
import benchmarks.gpu.training  # noqa: F401
