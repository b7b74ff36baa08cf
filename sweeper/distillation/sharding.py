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
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from sweeper.distillation.models.loading import without_adapter
from sweeper.foundation.errors import BadInputError


def shard_teacher(model: Any) -> None:
    """Divide the layers of ``model``, which is not trained any more, in place.

    Embeddings and head stay whole in every process: the head makes logits of a chunk of positions
    at a time, and their number differs from one process to the next.

    Raises:
        BadInputError: Its weights are quantized, or its architecture does not say what its layers
            are.
    """
    layers = _layers(model, "shard_teacher")
    model.requires_grad_(False)
    for layer in layers:
        # Each is a root of its own, and a root would stay whole for its backward pass.
        fully_shard(layer, mesh=_everybody(model), reshard_after_forward=True)


class ShardedStudent:
    """A student divided in place, and how to have it whole again.

    All processes must call the same methods in the same order.

    Args:
        model: On its device, as it is to be trained. It must read by its own ``forward`` from here
            on: only that puts it together.

    Attributes:
        model: The same.

    Raises:
        BadInputError: Its weights are quantized, or its architecture does not say what its layers
            are.
    """

    def __init__(self, model: Any) -> None:
        layers = _layers(model, "shard_student")
        self.model = model
        # Everything of it but its weights: what is divided cannot be copied.
        self._outline = _copy(model, lambda name, weights: weights.to("meta"))
        for module in (*layers, model):
            fully_shard(module, mesh=_everybody(model))
        # What one process has no use for, an expert for example, others may.
        model.set_reduce_scatter_unused_params(True)
        # So transformers' trainer does not put it into DistributedDataParallel.
        without_adapter(model)._is_distributed_loading_by_transformers = True

    def assemble(self) -> Any:
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


def collected(value: Any, keep: bool) -> Any:
    """The whole of what may be divided, in main memory; to be called by all processes.

    Args:
        value: A part of a tensor; anything else is what it is.
        keep: Whether this process wants it; otherwise None takes its place.
    """
    if not isinstance(value, DTensor):
        return value
    whole = assembled(value)
    return whole.cpu() if keep else None


def collected_states(optimiser: torch.optim.Optimizer, keep: bool) -> dict[str, Any]:
    """An optimiser's ``state_dict``, whole; see ``collected``."""
    found = optimiser.state_dict()
    return {**found, "state": _mapped(found["state"], lambda value, _: collected(value, keep))}


def divide_states(optimiser: torch.optim.Optimizer, whole: Mapping[str, Any]) -> None:
    """Go on from what ``collected_states`` gave, each process with its parts."""
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


def _layers(model: Any, key: str) -> list[nn.Module]:
    base = without_adapter(model)
    name = type(base).__name__
    if getattr(base, "is_quantized", False):
        raise BadInputError(
            f"expected false: the weights of {name} are quantized", ("compute", key)
        )
    names = set(model._no_split_modules or ())
    layers = [module for module in model.modules() if type(module).__name__ in names]
    if not layers:
        message = f"expected false: {name} does not say what its layers are"
        raise BadInputError(message, ("compute", key))
    return layers


def _everybody(model: Any) -> DeviceMesh:
    kind = next(model.parameters()).device.type
    return init_device_mesh(kind, (dist.get_world_size(),))


def _copy(model: Any, weights: Callable[[str, Tensor], Tensor]) -> Any:
    """A copy of ``model`` with other weights, by name; those of its own are not copied."""
    others = {
        id(own): nn.Parameter(weights(name, own.detach()), requires_grad=own.requires_grad)
        for name, own in model.named_parameters()
    }
    return copy.deepcopy(model, others)
