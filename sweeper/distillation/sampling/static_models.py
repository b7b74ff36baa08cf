"""Models that can be decoded with shapes that do not change, and why others cannot."""

from __future__ import annotations

import inspect
from typing import Any

from transformers import GenerationMixin

from sweeper.distillation.sampling.static_masks import form
from sweeper.distillation.sampling.static_states import unknown_layers, windows

_STANDARD = {
    "BambaForCausalLM",
    "FalconH1ForCausalLM",
    "NemotronHForCausalLM",
    "Phi3ForCausalLM",
    "Zamba2ForCausalLM",
}
"""Classes whose own preparation of inputs changes nothing here: they set ``logits_to_keep``, or
recompute where ``original_max_position_embeddings`` is passed, which ``why_not`` looks at."""
_TRIED = {"FalconH1ForCausalLM", "StableLmForCausalLM", "Zamba2ForCausalLM"}
"""Classes that the library does not promise fixed shapes for, and that give the same answers."""
_NEEDED = {"attention_mask", "position_ids", "past_key_values", "logits_to_keep"}


def why_not(model: Any, length: int) -> str | None:
    """Return why a model cannot be decoded with fixed shapes; None if it can.

    Args:
        model: The model without its adapter.
        length: Most tokens of a text.
    """
    kind = type(model)
    if not kind.__module__.startswith("transformers."):
        return f"{kind.__name__} is code of the model's repository"
    if missing := _NEEDED - set(inspect.signature(kind.forward).parameters):
        return f"{kind.__name__} does not take {', '.join(sorted(missing))}"
    promised = kind._can_compile_fullgraph and (kind._supports_attention_backend or _stateful(kind))
    if not promised and kind.__name__ not in _TRIED:
        return f"{kind.__name__} is not made for states in fixed places"
    own = kind.prepare_inputs_for_generation is not GenerationMixin.prepare_inputs_for_generation
    if own and kind.__name__ not in _STANDARD:
        return f"{kind.__name__} prepares its inputs in its own way"
    config = model.config.get_text_config(decoder=True)
    original = getattr(config, "original_max_position_embeddings", None)
    if own and original is not None and length > original:
        return f"texts of {length} tokens may pass {original}, where the model's positions change"
    if problem := _layers_problem(model):
        return problem
    if len({parameter.device for parameter in model.parameters()}) > 1:
        return "it is on several devices"
    return None


def _stateful(kind: Any) -> bool:
    return bool(getattr(kind, "_is_stateful", False))


def _layers_problem(model: Any) -> str | None:
    """Return why a model's layers cannot have states in fixed places; None if they can."""
    config = model.config.get_text_config(decoder=True)
    if unknown := unknown_layers(model.config):
        return f"its states have no fixed places ({', '.join(unknown)})"
    if "chunked_attention" in (getattr(config, "layer_types", None) or ()):
        return "its attention is in chunks"
    if getattr(config, "attention_chunk_size", None) is not None:
        return "its attention is in chunks"
    seen = windows(model.config)
    if not seen:
        return "it has no attention"
    if len(seen - {None}) > 1:
        return "its sliding windows differ"
    if len(seen) > 1 and not isinstance(form(model), dict):
        return "it does not take a mask for each kind of attention"
    return None
