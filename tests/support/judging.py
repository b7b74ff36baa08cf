"""A real model that judges texts as vLLM's server does, for servers of tests."""

from __future__ import annotations

import threading
from typing import Any

import torch

from sweeper.config.models import ModelConfig
from sweeper.distillation.models.loading import load_model
from tests.support.prompt_log_probs import report


class Judge:
    """Gives the ``prompt_logprobs`` of a model that it loads."""

    def __init__(self, model: ModelConfig | str = "builtin/adder-teacher") -> None:
        named = ModelConfig(model=model) if isinstance(model, str) else model
        self._model = load_model(named, "cpu")
        self._lock = threading.Lock()

    def __call__(self, tokens: list[int], k: int) -> list[Any]:
        with self._lock, torch.no_grad():
            logits = self._model(torch.tensor([tokens])).logits[0, :-1]
        return report(tokens, logits.float().log_softmax(-1).tolist(), k)
