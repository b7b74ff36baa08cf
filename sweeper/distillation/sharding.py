"""Models divided among the processes that train with them.

Each process keeps an equal part of every layer's weights. A layer is put together where it reads,
and taken apart after it, by torch's ``fully_shard``; so all processes must let the model read at
the same times. Of a student, the gradients and the optimiser's states are divided with the weights.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from sweeper.errors import BadInputError


def shard_teacher(model: Any) -> None:
    """Divide the layers of ``model``, which is not trained any more, in place.

    Embeddings and head stay whole in every process: the head makes logits of a chunk of positions
    at a time, and their number differs from one process to the next.

    Raises:
        BadInputError: Its architecture does not say what its layers are.
    """
    model.requires_grad_(False)
    for layer in _layers(model, "shard_teacher"):
        fully_shard(layer)


class ShardedStudent:
    """A student divided in place, and how to have it whole again.

    All processes must call the same methods in the same order.

    Args:
        model: On its device, as it is to be trained. It must read by its own ``forward`` from here
            on: only that puts it together.

    Attributes:
        model: The same.

    Raises:
        BadInputError: Its architecture does not say what its layers are.
    """

    def __init__(self, model: Any) -> None:
        layers = _layers(model, "shard_student")
        self.model = model
        # Everything of it but its weights: what is divided cannot be copied.
        self._outline = _copy(model, lambda name, weights: weights.to("meta"))
        for layer in layers:
            fully_shard(layer)
        fully_shard(model)
        base = model.get_base_model() if hasattr(model, "get_base_model") else model
        # So transformers' trainer does not put it into DistributedDataParallel.
        base._is_distributed_loading_by_transformers = True

    def whole(self) -> Any:
        """A copy with whole weights, as they are now, for this process alone."""
        weights = {name: assembled(part) for name, part in self.model.named_parameters()}
        buffers = dict(self.model.named_buffers())
        model = _copy(self._outline, lambda name, _: weights.pop(name))
        for name, buffer in model.named_buffers():
            buffer.copy_(buffers[name])
        return model


def assembled(tensor: Tensor) -> Tensor:
    """The whole of what may be divided; to be called by all processes."""
    found = tensor.detach()
    return found.full_tensor() if isinstance(found, DTensor) else found


def divided_like(tensor: Tensor, part: DTensor) -> DTensor:
    """This process's part of a whole ``tensor`` that all have, if divided as ``part`` is."""
    whole = tensor.to(part.device, part.dtype)
    return distribute_tensor(whole, part.device_mesh, part.placements, src_data_rank=None)


def assembled_states(optimiser: torch.optim.Optimizer) -> dict[str, Any]:
    """An optimiser's ``state_dict``, whole; to be called by all processes.

    What was divided comes in main memory, for it may be too large for a device.
    """
    found = optimiser.state_dict()
    return {**found, "state": _mapped(found["state"], lambda value, _: _in_main_memory(value))}


def divide_states(optimiser: torch.optim.Optimizer, whole: Mapping[str, Any]) -> None:
    """Go on from what ``assembled_states`` gave, each process with its parts."""
    weights = [weight for group in optimiser.param_groups for weight in group["params"]]

    def part(value: Any, index: int) -> Any:
        like = weights[index]
        divided = isinstance(like, DTensor) and isinstance(value, Tensor)
        return divided_like(value, like) if divided and value.shape == like.shape else value

    optimiser.load_state_dict({**whole, "state": _mapped(whole["state"], part)})


def _mapped(
    states: Mapping[int, Mapping[str, Any]], change: Callable[[Any, int], Any]
) -> dict[int, dict[str, Any]]:
    """An optimiser's states by weight and name, each changed."""
    return {
        index: {name: change(value, index) for name, value in state.items()}
        for index, state in states.items()
    }


def _in_main_memory(value: Any) -> Any:
    return value.full_tensor().cpu() if isinstance(value, DTensor) else value


def _layers(model: Any, key: str) -> list[nn.Module]:
    names = set(model._no_split_modules or ())
    layers = [module for module in model.modules() if type(module).__name__ in names]
    if not layers:
        base = model.get_base_model() if hasattr(model, "get_base_model") else model
        message = f"expected false: {type(base).__name__} does not say what its layers are"
        raise BadInputError(message, ("compute", key))
    return layers


def _copy(model: Any, weights: Callable[[str, Tensor], Tensor]) -> Any:
    """A copy of ``model`` with other weights, by name; those of its own are not copied."""
    others = {
        id(own): nn.Parameter(weights(name, own.detach()), requires_grad=own.requires_grad)
        for name, own in model.named_parameters()
    }
    return copy.deepcopy(model, others)
