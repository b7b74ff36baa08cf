"""Students made from a larger model by keeping some of its layers.

The initialisation of DistilBERT (Sanh et al. 2019, section 3): every so many of the teacher's
layers, with everything around them. Such a student is broken until it is trained.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import PretrainedConfig, PreTrainedModel

from sweeper.foundation.errors import BadInputError

KEY = ("student", "keep_layers")
"""What is to blame in the study file."""


def spread(count: int, total: int) -> tuple[int, ...]:
    """``count`` layers out of ``total``, evenly spread, the first and the last among them.

    Args:
        count: In ``[2, total]``.
        total: The number of layers.
    """
    return tuple(
        (2 * index * (total - 1) + count - 1) // (2 * (count - 1)) for index in range(count)
    )


def chosen(keep: int | tuple[int, ...], config: PretrainedConfig) -> tuple[int, ...]:
    """The layers that ``keep`` means in a model of this configuration, in ascending order.

    Args:
        keep: How many, or which.
        config: The larger model's.

    Raises:
        BadInputError: It has no such layers.
    """
    total = config.get_text_config().num_hidden_layers
    if isinstance(keep, int):
        if keep > total:
            message = f"expected at most {total}, the model's number of layers, found {keep}"
            raise BadInputError(message, KEY)
        return spread(keep, total)
    if max(keep) >= total:
        message = f"expected layers from 0 to {total - 1}, the model's last, found {max(keep)}"
        raise BadInputError(message, KEY)
    return tuple(sorted(keep))


def shrink_config(config: PretrainedConfig, kept: tuple[int, ...]) -> None:
    """Leave in ``config`` only what it says of the layers ``kept``.

    A list as long as there are layers says something of each: its kind of attention, its width.
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


def keep_layers(model: PreTrainedModel, kept: tuple[int, ...]) -> None:
    """Drop all layers of ``model`` but ``kept``, in place, its configuration included.

    Raises:
        BadInputError: The model's layers cannot be told from the rest of it, or it would not be
            the same model after being saved and loaded.
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
        found = ", ".join(outer) or "none"
        message = f"expected a model with one list of {total} layers, found {found}"
        raise BadInputError(message, KEY)
    parent, _, attribute = outer[0].rpartition(".")
    layers = torch.nn.ModuleList(lists[outer[0]][index] for index in kept)
    setattr(model.get_submodule(parent), attribute, layers)
    for index, layer in enumerate(layers):
        for module in layer.modules():
            # Under its number, a layer finds its keys and values in the cache.
            for number in ("layer_idx", "layer_id"):
                if isinstance(getattr(module, number, None), int):
                    setattr(module, number, index)
    shrink_config(model.config, kept)
    if difference := _difference(model, outer[0]):
        message = f"expected layers that can do without the others, but {difference}"
        raise BadInputError(message, KEY)


def _difference(model: PreTrainedModel, path: str) -> str | None:
    """How the model that the configuration makes differs from ``model``, its weights aside.

    Args:
        model: Whose configuration is saved and read again.
        path: Where its layers are.
    """
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
    """What the modules of layers remember of their place: numbers, kinds of attention and so on."""
    return {
        f"{path}.{name}": value
        for path, module in layers.named_modules()
        for name, value in vars(module).items()
        if isinstance(value, bool | int | float | str)
        and not name.startswith("_")
        and name != "training"
    }
