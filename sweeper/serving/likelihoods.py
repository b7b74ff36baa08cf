"""Replies of vLLM's ``/completions`` about given tokens: how likely a model finds them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sweeper.serving.replies import NonsenseError


@dataclass(frozen=True)
class Likelihood:
    """How likely a model finds the last tokens of a text, after those before them."""

    log_probability: float
    """Sum over these tokens, in nats; NaN where the model computes no numbers."""
    greedy: bool
    """True if each of them is the likeliest at its place."""


def read_likelihood(body: Any, tokens: Sequence[int], count: int) -> Likelihood:
    """Read a reply that was asked with ``prompt_logprobs``.

    Args:
        body: The reply's JSON.
        tokens: Token ids that were sent.
        count: Number of these, from the end, whose log-probabilities are summed.

    Raises:
        NonsenseError: It lacks the log-probability, or the rank, of a token that was sent.
    """
    choices = body.get("choices") if isinstance(body, Mapping) else None
    choice = choices[0] if isinstance(choices, list) and choices else None
    places = choice.get("prompt_logprobs") if isinstance(choice, Mapping) else None
    if not isinstance(places, list):
        raise NonsenseError("a choice without prompt_logprobs")
    if len(places) != len(tokens):
        raise NonsenseError(f"prompt_logprobs of {len(places)} tokens, not of {len(tokens)}")
    total, greedy = 0.0, True
    for token, place in zip(tokens[-count:], places[-count:], strict=True):
        entry = place.get(str(token)) if isinstance(place, Mapping) else None
        if not isinstance(entry, Mapping):
            raise NonsenseError("prompt_logprobs without a token that was sent")
        value, rank = entry.get("logprob", math.nan), entry.get("rank")
        # What is no number comes as null.
        value = math.nan if value is None else value
        if type(value) not in (float, int) or value > 1e-3 or type(rank) is not int:
            raise NonsenseError("prompt_logprobs without a log-probability and a rank")
        total += value
        greedy &= rank == 1
    return Likelihood(total, greedy)
