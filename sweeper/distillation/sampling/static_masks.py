"""Masks of passes that feed one token a row, made from tensors alone."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers.masking_utils import create_masks_for_generate

from sweeper.distillation.sampling.static_states import StaticStates


def form(model: Any) -> Any:
    """Return the masks of one token as the library would hand them to a model."""
    make = getattr(model, "create_masks_for_generate", create_masks_for_generate)
    return make(
        config=model.config,
        inputs_embeds=torch.empty(1, 1, 0, dtype=model.dtype),
        attention_mask=torch.ones(1, 1, 1, 1, dtype=torch.bool),
        past_key_values=None,
    )


class Masks:
    """Attention masks in the form in which a model takes them ready-made.

    The library's own functions make a mask from the values of another, or from numbers of the host,
    for which a GPU would have to wait.
    """

    def __init__(self, model: Any, states: StaticStates) -> None:
        self._form = form(model)
        self._states = states
        self._config = model.config
        self._dtype = model.dtype

    def of(self, seen: Tensor) -> Any:
        """Return the masks for columns that rows see, [rows, columns] of truth values."""
        mask = seen[:, None, None]
        if self._config._attn_implementation == "eager":
            least = torch.finfo(self._dtype).min
            mask = torch.zeros_like(mask, dtype=self._dtype).masked_fill(~mask, least)
        windowed = mask[..., : self._states.window]
        if isinstance(self._form, dict):
            return {
                kind: None if form is None else windowed if kind == "sliding_attention" else mask
                for kind, form in self._form.items()
            }
        return windowed if self._states.all_windowed else mask
