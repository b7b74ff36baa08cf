"""Students made from a larger model by keeping some of its layers.

The initialisation of DistilBERT (Sanh et al. 2019, section 3): evenly spread layers of the teacher,
with everything around them. Such a student is broken until it is trained.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import PretrainedConfig, PreTrainedModel

from sweeper.foundation.errors import BadInputError, blaming


def spread(count: int, total: int) -> tuple[int, ...]:
    """Return 2 or more out of ``total`` layers, evenly spread, with the first and the last."""
    return tuple(
        (2 * index * (total - 1) + count - 1) // (2 * (count - 1)) for index in range(count)
    )


@blaming("student", "keep_layers")
def chosen(keep: int | tuple[int, ...], config: PretrainedConfig) -> tuple[int, ...]:
    """Return the layers that ``keep`` (a number or indices) selects in a model, in ascending order.

    Raises:
        BadInputError: The model has no such layers.
    """
    total = config.get_text_config().num_hidden_layers
    if isinstance(keep, int):
        if keep > total:
            raise BadInputError(
                f"expected at most {total}, the model's number of layers, found {keep}"
            )
        return spread(keep, total)
    if max(keep) >= total:
        raise BadInputError(
            f"expected layers from 0 to {total - 1}, the model's last, found {max(keep)}"
        )
    return tuple(sorted(keep))


def shrink_config(config: PretrainedConfig, kept: tuple[int, ...]) -> None:
    """Reduce ``config`` in place to the layers ``kept``.

    A list with as many entries as layers describes each layer: its kind of attention, its width.
    """
    text = config.get_text_config()
    total = text.num_hidden_layers
    per_layer = {
        name: [value[index] for index in kept]
        for name, value in text.to_dict().items()
        if isinstance(value, list | tuple)
        and len(value) == total
        and not name.endswith(("architectures", "token_id"))
    }
    text.num_hidden_layers = len(kept)
    for name, value in per_layer.items():
        setattr(text, name, value)


@blaming("student", "keep_layers")
def path_of_layers(model: PreTrainedModel) -> str:
    """Return the path of a model's list of layers.

    Raises:
        BadInputError: The model's layers cannot be identified.
    """
    total = model.config.get_text_config().num_hidden_layers
    lists = {
        path: module
        for path, module in model.named_modules()
        if isinstance(module, torch.nn.ModuleList) and len(module) == total
    }
    # The experts of a layer may be as many as the layers.
    outer = [p for p in lists if not any(p.startswith(f"{other}.") for other in lists)]
    if len(outer) != 1:
        lists_of_layers = ", ".join(outer) or "none"
        raise BadInputError(
            f"expected a model with one list of {total} layers, found {lists_of_layers}"
        )
    return str(outer[0])


@blaming("student", "keep_layers")
def keep_layers(model: PreTrainedModel, kept: tuple[int, ...]) -> None:
    """Drop all layers of ``model`` but ``kept``, in place, its configuration included.

    Raises:
        BadInputError: The model's layers cannot be identified, or the model would change when it
            is saved and loaded.
    """
    path = path_of_layers(model)
    parent, _, attribute = path.rpartition(".")
    whole: Any = model.get_submodule(path)
    layers = torch.nn.ModuleList(whole[index] for index in kept)
    setattr(model.get_submodule(parent), attribute, layers)
    for index, layer in enumerate(layers):
        for module in layer.modules():
            # Under its number, a layer finds its keys and values in the cache.
            for number in ("layer_idx", "layer_id"):
                if isinstance(getattr(module, number, None), int):
                    setattr(module, number, index)
    shrink_config(model.config, kept)
    if difference := _difference(model, path):
        raise BadInputError(f"expected layers that can do without the others, but {difference}")


def _difference(model: PreTrainedModel, path: str) -> str | None:
    """Return how a model built from the saved configuration differs from ``model``, if it does."""
    values = model.config.to_dict()
    values.pop("quantization_config", None)
    try:
        with torch.device("meta"):
            shell: Any = type(model)(type(model.config).from_dict(values))
    except Exception as error:  # whatever an architecture makes of a configuration it never had
        return str(error)
    wanted, left = dict(shell.named_parameters()), dict(model.named_parameters())
    for name in sorted(wanted.keys() ^ left.keys()):
        return f"{name} would be {'missing' if name in wanted else 'left over'}"
    for name, weights in left.items():
        # Quantised weights are packed into shapes of their own.
        if weights.is_floating_point() and weights.shape != wanted[name].shape:
            return f"{name} would change its shape"
    traits = _traits(shell.get_submodule(path))
    for trait, value in _traits(model.get_submodule(path)).items():
        if traits.get(trait, value) != value:
            return f"{trait} would be {traits[trait]!r} instead of {value!r}"
    return None


def _traits(layers: torch.nn.Module) -> dict[str, Any]:
    """Return the plain attributes of the layers' modules: indices, kinds of attention and so on."""
    return {
        f"{path}.{name}": value
        for path, module in layers.named_modules()
        for name, value in vars(module).items()
        if isinstance(value, bool | int | float | str)
        and not name.startswith("_")
        and name != "training"
    }
