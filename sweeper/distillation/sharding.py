"""A teacher divided among the processes that train with it.

Each keeps an equal part of every layer's weights. A layer is put together where it reads, and taken
apart after it, by torch's ``fully_shard``; so all processes must let the teacher read at the same
times.
"""

from __future__ import annotations

from typing import Any

from torch.distributed.fsdp import fully_shard

from sweeper.errors import BadInputError


def shard(model: Any) -> None:
    """Divide the layers of ``model``, which is not trained any more, in place.

    Embeddings and head stay whole in every process: the head makes logits of a chunk of positions
    at a time, and their number differs from one process to the next.

    Raises:
        BadInputError: Its architecture does not say what its layers are.
    """
    model.requires_grad_(False)
    names = set(model._no_split_modules or ())
    layers = [module for module in model.modules() if type(module).__name__ in names]
    if not layers:
        message = f"expected false: {type(model).__name__} does not say what its layers are"
        raise BadInputError(message, ("compute", "shard_teacher"))
    for layer in layers:
        fully_shard(layer)
