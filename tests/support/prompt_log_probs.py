"""Replies with ``prompt_logprobs``, in vLLM's form, from log-probabilities that a test has."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any


def written(value: float) -> float:
    """A log-probability as vLLM writes it: JSON has no -inf."""
    return max(value, -9999.0)


def report(tokens: Sequence[int], log_probs: Sequence[Sequence[float]], k: int) -> list[Any]:
    """What vLLM reports of a prompt: the k most likely tokens of each position, and its own.

    ``log_probs`` has all log-probabilities after each token but the last.
    """
    reported: list[Any] = [None]
    for token, row in zip(tokens[1:], log_probs, strict=True):
        ranked = sorted(range(len(row)), key=lambda one: (-row[one], one))
        chosen = dict.fromkeys([token, *ranked[:k]])
        reported.append(
            {
                str(one): {
                    "logprob": written(row[one]),
                    "rank": 1 + sum(other > row[one] for other in row),
                    "decoded_token": f"<{one}>",
                }
                for one in chosen
            }
        )
    return reported


def reply(reported: object) -> dict[str, Any]:
    """The reply of ``/completions``."""
    choice = {"text": "", "finish_reason": "length", "prompt_logprobs": reported}
    return {"choices": [choice], "usage": {"prompt_tokens": 1, "completion_tokens": 1}}


def log_softmax(logits: Sequence[float]) -> list[float]:
    """Log-probabilities of logits, at least one of which is finite."""
    largest = max(logits)
    total = math.log(sum(math.exp(z - largest) for z in logits))
    return [z - largest - total for z in logits]
