"""A model's configuration: as it was before a training, also after it."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sweeper.distillation.models.loading import without_adapter


@contextmanager
def unchanged_configuration(model: Any) -> Iterator[None]:
    """Restore the model's configurations after the block, whatever trainers set in them."""
    bare = without_adapter(model)
    configs = [bare.config, getattr(bare, "generation_config", None)]
    earlier = [copy.deepcopy(vars(config)) for config in configs if config is not None]
    try:
        yield
    finally:
        for config, values in zip(filter(None, configs), earlier, strict=True):
            vars(config).clear()
            vars(config).update(values)
