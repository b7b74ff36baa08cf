"""Documents of a test suite, for the tests of its statistics."""

from __future__ import annotations

import numpy as np

from sweeper.analysis.stats.crossed_effects import Documents


def alike(count: int) -> Documents:
    """Build ``count`` documents of one task, none of which belong together."""
    return Documents(np.full(count, 1.0 / count), np.zeros(count, np.intp), np.arange(count))
