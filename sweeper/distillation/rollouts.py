"""Sampling from a model: the student's rollouts and the teacher's stored answers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList

from sweeper.errors import DivergedError


@dataclass(frozen=True)
class Rollout:
    """One sampled answer."""

    tokens: tuple[int, ...]
    """Token ids, the end token included if there is one."""
    finished: bool
    """Whether it ended by itself, rather than at ``max_new_tokens``."""


def generate(
    model: Any,
    prompts: Sequence[Sequence[int]],
    *,
    temperature: float,
    max_new_tokens: int,
    end_ids: Sequence[int],
    pad_id: int,
    seed: int,
    batch_size: int,
) -> list[Rollout]:
    """Sample one answer to each prompt from the model's own distribution at ``temperature``.

    The model's generation settings are set aside, because they carry what its publisher found nice
    (top-k, repetition penalties) and would change the distribution. The key-value cache is always
    on. Global random state is left as it was.

    Args:
        model: A causal language model, or one with an adapter.
        prompts: Token ids.
        temperature: Above 0; 0 decodes greedily.
        max_new_tokens: The longest answer.
        end_ids: Tokens that end an answer.
        pad_id: Fills shorter prompts, on their left.
        seed: Decides every draw.
        batch_size: Prompts at a time; similar lengths go together.

    Returns:
        The answers, in the order of ``prompts``.
    """
    device = next(model.parameters()).device
    settings = GenerationConfig(
        max_new_tokens=max_new_tokens,
        do_sample=temperature > 0,
        **({"temperature": temperature, "top_k": 0, "top_p": 1.0} if temperature > 0 else {}),
        repetition_penalty=1.0,
        use_cache=True,
        eos_token_id=list(end_ids),
        pad_token_id=pad_id,
    )
    order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
    answers: list[Rollout | None] = [None] * len(prompts)
    with _undisturbed(model, settings, device, seed), torch.no_grad():
        for start in range(0, len(order), batch_size):
            indices = order[start : start + batch_size]
            batch = [prompts[index] for index in indices]
            width = max(len(prompt) for prompt in batch)
            padded = [[pad_id] * (width - len(p)) + list(p) for p in batch]
            mask = [[0] * (width - len(p)) + [1] * len(p) for p in batch]
            tokens = model.generate(
                input_ids=torch.tensor(padded, device=device),
                attention_mask=torch.tensor(mask, device=device),
                generation_config=settings,
                logits_processor=LogitsProcessorList([_Finite()]),
            )
            for index, row in zip(indices, tokens[:, width:].tolist(), strict=True):
                answers[index] = _until_end(row, set(end_ids))
    return [answer for answer in answers if answer is not None]


class _Finite(LogitsProcessor):  # type: ignore[misc]
    """Stops sampling from a distribution that is none; on a GPU it would end the process."""

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        # A NaN compares with nothing.
        if not bool((scores < torch.inf).all()):
            raise DivergedError("The logits are not finite while sampling: training diverged.")
        return scores


def _until_end(tokens: list[int], end_ids: set[int]) -> Rollout:
    for position, token in enumerate(tokens):
        if token in end_ids:
            return Rollout(tuple(tokens[: position + 1]), finished=True)
    return Rollout(tuple(tokens), finished=False)


@contextmanager
def _undisturbed(
    model: Any, settings: GenerationConfig, device: torch.device, seed: int
) -> Iterator[None]:
    """Generate in evaluation mode under its own seed, then put everything back."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    inherited, training = base.generation_config, model.training
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        base.generation_config = settings
        model.eval()
        try:
            yield
        finally:
            base.generation_config = inherited
            model.train(training)
