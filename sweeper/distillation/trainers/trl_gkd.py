"""TRL's ``GKDTrainer``, imported without its warning."""

from __future__ import annotations

import warnings

with warnings.catch_warnings():
    # TRL announces that GKD is experimental; its version is pinned for that reason.
    warnings.simplefilter("ignore")
    from trl.experimental.gkd import GKDConfig, GKDTrainer

__all__ = ["GKDConfig", "GKDTrainer"]
