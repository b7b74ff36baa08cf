"""Low-rank adapters: added to a student, and merged into its weights after training."""

from __future__ import annotations

import traceback
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from sweeper.config.base import Scalar, short
from sweeper.config.models import NO_HEAD, LoraConfig, ModelConfig, StudentConfig
from sweeper.distillation.models.late_bitsandbytes import import_bitsandbytes
from sweeper.distillation.models.loading import load_model, read_config, without_weights
from sweeper.foundation.errors import BadInputError

_TARGETS, _SAVED = ("student", "lora", "target_modules"), ("student", "lora", "modules_to_save")


def check_adapter(student: StudentConfig, *, warm_start: bool = False) -> None:
    """Check on a student without weights that its modules can be adapted.

    With ``warm_start`` an adapter is merged into them once.

    Raises:
        BadInputError: As ``add_adapter`` and ``check_mergeable``.
    """
    if student.lora is None:
        return
    if warm_start and student.quantization is None:
        check_mergeable(read_config(student), ("warm_start",))
    try:
        bare = without_weights(student)
    except BadInputError:
        raise
    except Exception:  # from the model's own code, which may need values
        traceback.print_exc()
    else:
        add_adapter(bare, student.lora, {}, seed=0)


def add_adapter(
    model: PreTrainedModel, lora: LoraConfig, changes: dict[str, Scalar], seed: int
) -> Any:
    """Return the model with a fresh low-rank adapter, initialised from ``seed``.

    Its own weights are frozen in place. ``changes`` are the arm's own values over ``lora``.

    Raises:
        BadInputError: A name fits no module, or one that cannot be adapted: the head, or one whose
            weights are another's too.
    """
    import_bitsandbytes()
    from peft import LoraConfig as PeftLoraConfig
    from peft import get_peft_model

    values = {**lora.model_dump(), **changes}
    modules = values["target_modules"]
    places = _places(model)
    _check_modules(model, lora, places)
    config = PeftLoraConfig(
        task_type="CAUSAL_LM",
        r=values["r"],
        lora_alpha=values["alpha"],
        lora_dropout=values["dropout"],
        target_modules=modules if isinstance(modules, str) else list(modules),
        use_rslora=values["use_rslora"],
        use_dora=values["use_dora"],
        modules_to_save=list(values["modules_to_save"]) or None,
    )
    # Elsewhere PEFT draws weights on the CPU, so that they are the same on every device.
    place = torch.device("meta") if model.device.type == "meta" else nullcontext()
    with torch.random.fork_rng(devices=[]), place:
        torch.manual_seed(seed)
        try:
            adapted = get_peft_model(model, config)
        except (TypeError, ValueError) as error:
            reason = str(error).splitlines()[0]
            key = _TARGETS
            # Targets were found; where none is left, all of them are to be saved.
            if lora.modules_to_save and reason.startswith(("modules_to_save", "No modules were")):
                key, reason = _SAVED, f"{reason}; name others, or fewer target_modules"
            raise BadInputError(f"PEFT cannot adapt them: {reason}", key) from error
    _check_adapted(adapted, lora, places)
    for module in adapted.modules():
        if trained_copy(module) is not module:
            _train_in_float32(trained_copy(module), module.original_module)
    return adapted


def trained_copy(module: Any) -> Any:
    """Return the copy of a module that an adapter trains (``modules_to_save``), else the module."""
    copies = getattr(module, "modules_to_save", None)
    if not isinstance(copies, nn.ModuleDict):
        return module
    return copies[module.active_adapters[0]]


def _train_in_float32(copy: nn.Module, original: nn.Module) -> None:
    """Keep a trained copy in float32 in a model of 16 bits, as PEFT keeps adapters only.

    The modules around it get and give what they do around the original.
    """
    copy.float()

    def enter(_module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        return tuple(_as_type_of(copy, value) for value in inputs)

    def leave(_module: nn.Module, inputs: tuple[Any, ...], output: Any) -> Any:
        return _as_type_of(original, output)

    copy.register_forward_pre_hook(enter)
    copy.register_forward_hook(leave)


def _as_type_of(module: nn.Module, value: Any) -> Any:
    """Return a tensor of numbers in the type of a module's weights, anything else as it is."""
    if not isinstance(value, Tensor) or not value.is_floating_point():
        return value
    return value.to(next(module.parameters()).dtype)


def _check_modules(model: PreTrainedModel, lora: LoraConfig, places: Counter[int]) -> None:
    """Check that each name fits a module, that the head stays as it is, and that no weight parts.

    Raises:
        BadInputError: One does not, or the head would be adapted, or a module that shares weights.
    """
    named = dict(model.named_modules())
    head = model.get_output_embeddings()
    targets = lora.target_modules if isinstance(lora.target_modules, tuple) else ()
    for key, names in ((_TARGETS, targets), (_SAVED, lora.modules_to_save)):
        for name in names:
            fitting = [part for at, part in named.items() if f".{at}".endswith(f".{name}")]
            if not fitting:
                known = sorted({at.rpartition(".")[2] for at, part in named.items() if _leaf(part)})
                message = f"expected names of the student's modules ({', '.join(known)}), found"
                raise BadInputError(f"{message} {short(name)}", key)
            if not any(True for part in fitting for _ in part.parameters()):
                message = f"expected modules with weights, found {short(name)}, which has none"
                raise BadInputError(message, key)
            if key is _TARGETS and head in fitting:
                raise BadInputError(f"expected no head, found {short(name)}: {NO_HEAD}", key)
            if any(_shares_weights(part, places) for part in fitting):
                raise _shared(model, name, key)


def _check_adapted(adapted: Any, lora: LoraConfig, places: Counter[int]) -> None:
    """Check what PEFT made of the names: it also takes modules whose names only end alike.

    Raises:
        BadInputError: A module shares its weights with another, or is saved around an adapted one.
    """
    for path, module in adapted.named_modules():
        saved = trained_copy(module) is not module
        if not saved and not hasattr(module, "adapter_layer_names"):
            continue
        inner = module.original_module if saved else module.base_layer
        key, at = _SAVED if saved else _TARGETS, path.removeprefix("base_model.model.")
        if saved and any(hasattr(part, "adapter_layer_names") for part in inner.modules()):
            message = f"expected no module around target_modules, found {short(at)}"
            raise BadInputError(f"{message}; name others, or fewer target_modules", key)
        if _shares_weights(inner, places):
            names = lora.modules_to_save if saved else lora.target_modules
            listed: Sequence[str] = names if isinstance(names, tuple) else ()
            name = next((name for name in listed if at.endswith(name)), at)
            raise _shared(adapted.get_base_model(), name, key)


def _places(module: nn.Module) -> Counter[int]:
    """Return in how many places within a module each of its weights is."""
    return Counter(id(weights) for _, weights in module.named_parameters(remove_duplicate=False))


def _shares_weights(module: nn.Module, places: Counter[int]) -> bool:
    """Return whether a weight of ``module`` is in one of the model's ``places`` outside it too."""
    return any(places[weights] > count for weights, count in _places(module).items())


def _shared(model: PreTrainedModel, name: str, key: tuple[str, ...]) -> BadInputError:
    """Return the error about a module that shares a weight with another."""
    head, embeddings = model.get_output_embeddings(), model.get_input_embeddings()
    if head is not None and trained_copy(head).weight is trained_copy(embeddings).weight:
        return BadInputError(
            f"expected neither embeddings nor head, found {short(name)}: in this student both are"
            " one weight, which training one of them would untie",
            key,
        )
    return BadInputError(
        f"expected modules with weights of their own, found {short(name)}, which shares some with"
        " another module: training one of them would make them differ",
        key,
    )


def _leaf(module: torch.nn.Module) -> bool:
    return not any(True for _ in module.children()) and any(True for _ in module.parameters())


def adapter_weights(model: Any) -> Iterator[Tensor]:
    """Yield the weights of low-rank adapters, which PEFT keeps in float32 on a model in 16 bits."""
    for layer in model.modules():
        if hasattr(layer, "base_layer"):
            for name in getattr(layer, "adapter_layer_names", ()):
                part = getattr(layer, name, None)
                if isinstance(part, nn.Module):
                    yield from part.parameters()


def merge_adapter(trained: Any, student: ModelConfig, device: str, seed: int) -> Any:
    """Return the trained student as one model, with its adapter merged into its weights.

    Quantized weights would be rounded once more, so their adapter is merged into the weights as
    they are stored, which are loaded again.
    """
    if not hasattr(trained, "merge_and_unload"):
        return trained
    if student.quantization is None:
        return merged_in_place(trained)
    from peft import get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict

    stored = load_model(student.model_copy(update={"quantization": None}), device, seed=seed)
    adapted = get_peft_model(stored, trained.peft_config[trained.active_adapter])
    set_peft_model_state_dict(adapted, get_peft_model_state_dict(trained))
    return merged_in_place(adapted)


def check_mergeable(model: Any, key: tuple[str, ...]) -> None:
    """Check that an adapter can be merged into a model, or its configuration, without rounding.

    Raises:
        BadInputError: Its weights are stored quantized; blames ``key``.
    """
    if getattr(model, "is_quantized", False) or hasattr(model, "quantization_config"):
        raise BadInputError(
            "expected a student whose weights are not stored quantized: an adapter merged into them"
            " would be rounded",
            key,
        )


def merged_in_place(adapted: Any, *, in_float32: bool = False) -> Any:
    """Return the model below an adapter, with the adapter's weights added to its own.

    With ``in_float32`` its weights become float32 before: in 16 bits the sums would be rounded.
    """
    if in_float32:
        adapted.get_base_model().float()
    return adapted.merge_and_unload()


def load_adapted(directory: Path, options: Mapping[str, Any]) -> Any:
    """Load an adapter that was saved, and the model below it, by PEFT alone.

    ``options`` are arguments of ``from_pretrained`` for the model below it.
    """
    import_bitsandbytes()
    from peft import AutoPeftModelForCausalLM

    return AutoPeftModelForCausalLM.from_pretrained(directory, **options)
