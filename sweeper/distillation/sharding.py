"""Models divided among the processes that train with them.

Each process keeps an equal part of every layer's weights. Torch's ``fully_shard`` puts a layer
together for its forward pass and takes it apart afterwards, so all processes must run the model at
the same times. A student's gradients and optimiser states are divided with its weights.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from sweeper.distillation.models.loading import without_adapter
from sweeper.distillation.models.rounding import rounded_layers
from sweeper.foundation.errors import BadInputError

_TAKES_UNUSED_WEIGHTS = hasattr(FSDPModule, "set_reduce_scatter_unused_params")
"""True from torch 2.13 on: gradients are added up also where a process did not use a weight."""


def shard_teacher(model: Any) -> None:
    """Divide the layers of a frozen ``model`` in place.

    Embeddings and head stay whole in every process: the head makes logits of a chunk of positions
    at a time, and their number differs from one process to the next.

    Raises:
        BadInputError: Its weights are quantized, or its architecture does not name its layers.
    """
    layers = layers_of(model, "shard_teacher")
    model.requires_grad_(False)
    for layer in layers:
        # Each is a root of its own; by default a root stays whole for its backward pass.
        fully_shard(layer, mesh=_mesh(model), reshard_after_forward=True)


class ShardedStudent:
    """A student that is divided in place, and can be assembled again.

    All processes must call the same methods in the same order. From here on only the ``forward`` of
    ``model`` itself puts it together.

    Raises:
        BadInputError: Its weights are quantized, its architecture does not name its layers, or it
            is a mixture of experts that this torch cannot divide.
    """

    def __init__(self, model: Any) -> None:
        layers = layers_of(model, "shard_student")
        _check_unused_weights(model)
        self.model = model
        # Everything but the weights: a divided model cannot be copied.
        self._outline = _copy(model, lambda name, weights: weights.to("meta"))
        for module in (*layers, model):
            fully_shard(module, mesh=_mesh(model))
        if _TAKES_UNUSED_WEIGHTS:
            # One process may not use a weight, an expert for example, that others use.
            model.set_reduce_scatter_unused_params(True)
        # Keeps transformers' trainer from wrapping it in DistributedDataParallel.
        without_adapter(model)._is_distributed_loading_by_transformers = True

    def assemble(self, *, keep: bool = True, autocast: torch.dtype | None = None) -> Any:
        """Return a copy with whole weights, as they are now, for this process alone.

        Args:
            keep: False to give the other processes this one's parts, and get None. Then no more
                than one whole weight is here at a time.
            autocast: Precision that autocast computes in where the copy is used: weights that it
                would round at each use are rounded as they come, to the same outputs.
        """
        rounded = set()
        if autocast is not None:
            rounded = {
                f"{path}.{name}"
                for path, layer in rounded_layers(self._outline)
                for name, _ in layer.named_parameters(recurse=False)
            }
        weights = {}
        for name, part in self.model.named_parameters():
            whole = assembled(part)
            if keep:
                weights[name] = whole.to(autocast) if name in rounded else whole
        if not keep:
            return None
        buffers = dict(self.model.named_buffers())
        model = _copy(self._outline, lambda name, _: weights.pop(name))
        for name, buffer in model.named_buffers():
            buffer.copy_(buffers[name])
        return model


def assembled(tensor: Tensor) -> Tensor:
    """Return the whole of a tensor that may be divided; all processes must call it."""
    detached = tensor.detach()
    return detached.full_tensor() if isinstance(detached, DTensor) else detached


def divided_like(tensor: Tensor, part: DTensor) -> DTensor:
    """Return this process's part of a ``tensor`` that all have whole, divided as ``part`` is."""
    whole = tensor.to(part.device, part.dtype)
    return distribute_tensor(whole, part.device_mesh, part.placements, src_data_rank=None)


def collected(value: Any, keep: bool) -> Any:
    """Return the whole of a divided tensor in main memory; all processes must call it.

    Any other value is returned as it is. Without ``keep`` this process gets None, to save memory.
    """
    if not isinstance(value, DTensor):
        return value
    whole = assembled(value)
    return whole.cpu() if keep else None


def collected_states(optimiser: torch.optim.Optimizer, keep: bool) -> dict[str, Any]:
    """Return an optimiser's ``state_dict`` with whole tensors; see ``collected``."""
    states = optimiser.state_dict()
    return {**states, "state": _mapped(states["state"], lambda value, _: collected(value, keep))}


def divide_states(optimiser: torch.optim.Optimizer, whole: Mapping[str, Any]) -> None:
    """Load what ``collected_states`` returned, in each process its parts."""
    weights = [weight for group in optimiser.param_groups for weight in group["params"]]

    def part(value: Any, index: int) -> Any:
        like = weights[index]
        divided = isinstance(like, DTensor) and isinstance(value, Tensor)
        return divided_like(value, like) if divided and value.shape == like.shape else value

    optimiser.load_state_dict({**whole, "state": _mapped(whole["state"], part)})


def _mapped(
    states: Mapping[int, Mapping[str, Any]], change: Callable[[Any, int], Any]
) -> dict[int, dict[str, Any]]:
    """Return an optimiser's states by weight and name, each changed."""
    return {
        index: {name: change(value, index) for name, value in state.items()}
        for index, state in states.items()
    }


def layers_of(model: Any, key: str) -> list[nn.Module]:
    """Return the layers of a model that ``compute.<key>`` asks to divide.

    Raises:
        BadInputError: Its weights are quantized, or its architecture does not name its layers.
    """
    base = without_adapter(model)
    name = type(base).__name__
    if getattr(base, "is_quantized", False):
        raise BadInputError(
            f"expected false: the weights of {name} are quantized", ("compute", key)
        )
    names = set(model._no_split_modules or ())
    layers = [module for module in model.modules() if type(module).__name__ in names]
    if not layers:
        message = f"expected false: {name} does not name its layers (_no_split_modules)"
        raise BadInputError(message, ("compute", key))
    return layers


def _check_unused_weights(model: Any) -> None:
    """Check that torch can divide a student whose processes use different weights.

    Raises:
        BadInputError: It cannot, and the student has experts.
    """
    names = without_adapter(model).config.get_text_config().to_dict()
    if not _TAKES_UNUSED_WEIGHTS and any("experts" in name for name in names):
        raise BadInputError(
            "expected torch 2.13 or newer, which can divide a student that is a mixture of experts,"
            f" found {torch.__version__}",
            ("compute", "shard_student"),
        )


def _mesh(model: Any) -> DeviceMesh:
    """Return the mesh of all processes, on the model's kind of device."""
    kind = next(model.parameters()).device.type
    return init_device_mesh(kind, (dist.get_world_size(),))


def _copy(model: Any, weights: Callable[[str, Tensor], Tensor]) -> Any:
    """Copy ``model`` with other weights, by name, without copying its own."""
    others = {
        id(own): nn.Parameter(weights(name, own.detach()), requires_grad=own.requires_grad)
        for name, own in model.named_parameters()
    }
    return copy.deepcopy(model, others)
