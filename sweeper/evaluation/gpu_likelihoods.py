"""Log-likelihoods of a loaded model on a GPU: batches that fill it, logits of continuations alone.

lm-eval's HFLM reads a fixed number of texts at a time, and takes the logits of all of their tokens:
with a vocabulary of 152,000 that is 0.6 MB a token in float32, of which an answer of a few tokens
needs little. Here a batch has as many texts as fit, and logits from the first token of a
continuation on. What a text scores does not depend on the texts next to it, but for rounding.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from lm_eval.models.huggingface import HFLM
from torch import Tensor

TOKENS_A_DOCUMENT = 512
"""Tokens that a document of ``evaluation.batch_size`` stands for: a batch of short texts has more
of them, one of long texts fewer."""
_SHARE = 0.5
"""Share of the free memory that a batch may take by its estimate."""

_Request = tuple[Any, list[int], list[int]]
"""Texts, and the tokens of context and continuation."""


@dataclass(frozen=True)
class _Row:
    """Requests that one pass over a sequence answers: they differ in their last token."""

    tokens: tuple[int, ...]
    """Sequence that the model reads."""
    requests: list[int]
    """Indices of the requests."""
    answer: int
    """Tokens of the longest continuation."""


class FillingLM(HFLM):  # type: ignore[misc]
    """lm-eval's view of a loaded model, which reads as many texts at a time as its device takes.

    Args:
        free: Bytes of the device that are free.
        options: HFLM's arguments; of its ``batch_size``, answers are generated at a time.
    """

    def __init__(self, free: Callable[[], int], **options: Any) -> None:
        super().__init__(**options)
        self._free = free
        self._documents = int(options["batch_size"])
        self._kept: int | None = None

    def _loglikelihood_tokens(
        self, requests: Any, disable_tqdm: bool = False, override_bs: int | None = None
    ) -> list[tuple[float, bool]]:
        """Return log-probability and greediness of the continuation of each request."""
        results: list[Any] = [None] * len(requests)
        try:
            for batch, kept in self._batches(self._rows(list(requests))):
                numbers = [number for row in batch for number in row.requests]
                self.batch_size_per_gpu, self._kept = len(batch), kept
                chosen = [requests[number] for number in numbers]
                answers = super()._loglikelihood_tokens(chosen, disable_tqdm=True)
                for number, answer in zip(numbers, answers, strict=True):
                    results[number] = answer
        finally:
            self.batch_size_per_gpu, self._kept = self._documents, None
        return results

    def _rows(self, requests: list[_Request]) -> list[_Row]:
        """Return the sequences to read, the longest first."""
        rows: dict[tuple[int, ...], _Row] = {}
        for number, (_, context, continuation) in enumerate(requests):
            tokens = tuple((context + continuation)[:-1])
            # Where HFLM does not put requests together, each is a sequence of its own.
            key = tokens if self.logits_cache else (number, *tokens)
            row = rows.get(key) or _Row(tokens, [], 0)
            answer = max(row.answer, len(continuation))
            rows[key] = _Row(tokens, [*row.requests, number], answer)
        return sorted(rows.values(), key=lambda row: (-len(row.tokens), row.tokens))

    def _batches(self, rows: list[_Row]) -> Iterator[tuple[list[_Row], int]]:
        """Divide sequences into batches; yield each with its last positions whose logits count."""
        start = 0
        while start < len(rows):
            length = min(len(rows[start].tokens), self.max_length)
            room = _SHARE * self._free()
            count = kept = 0
            tight = False
            for row in rows[start:]:
                read = min(len(row.tokens), self.max_length)
                needed = max(kept, min(length, length - read + row.answer))
                if count and (count + 1) * length > TOKENS_A_DOCUMENT * self._documents:
                    break
                if count and (count + 1) * self._bytes(length, needed) > room:
                    tight = True
                    break
                count, kept = count + 1, needed
            if tight:
                # Small differences of what is free leave the batches as they are.
                count = 2 ** (count.bit_length() - 1)
            yield rows[start : start + count], kept
            start += count

    def _bytes(self, length: int, kept: int) -> int:
        """Estimate the bytes of a sequence of so many tokens, the last of which have logits."""
        config = self.model.config.get_text_config()
        size = next(self.model.parameters()).element_size()
        inner = getattr(config, "intermediate_size", None) or 4 * config.hidden_size
        inner = max(inner) if isinstance(inner, list | tuple) else inner
        reading = length * size * (8 * config.hidden_size + 4 * inner)
        # Logits, and in float32 themselves and their logarithms.
        logits = kept * config.vocab_size * (size + 8)
        return int(reading + logits)

    def _model_call(
        self, inps: Tensor, attn_mask: Tensor | None = None, labels: Tensor | None = None
    ) -> Tensor:
        """Return the logits (batch × kept positions × vocabulary) of the last positions."""
        if self._kept is None:
            logits: Tensor = super()._model_call(inps, attn_mask, labels)
            return logits
        some = {"logits_to_keep": self._kept} if _keeps_some(self.model) else {}
        with torch.no_grad():
            logits = self.model(inps, use_cache=False, **some).logits
        return logits


def _keeps_some(model: Any) -> bool:
    """Return whether a model can leave out logits of positions that nobody asks for."""
    return "logits_to_keep" in inspect.signature(model.forward).parameters


def free_memory(device: torch.device) -> int:
    """Return the bytes of a GPU that this process may still take, by its own share of it."""
    free, total = torch.cuda.mem_get_info(device)
    allocated = torch.cuda.memory_allocated(device)
    # What torch holds in reserve is free for the next tensor.
    found = free + torch.cuda.memory_reserved(device) - allocated
    fraction = getattr(torch.cuda, "get_per_process_memory_fraction", lambda device: 1.0)(device)
    return max(0, min(found, int(fraction * total) - allocated))
