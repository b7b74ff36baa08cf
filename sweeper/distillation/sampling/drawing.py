"""Drawing tokens from logits, on the device that the logits are on."""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn.functional import pad

NOT_FINITE = "The logits are not finite while sampling: training diverged."
"""Message of the error of a model that gives no distribution to sample from."""
_SMALL_VOCABULARY = 1024
"""Largest vocabulary that a token is drawn from at once; in larger ones a block is drawn first."""


def exact_type(device: torch.device) -> torch.dtype:
    """Return the widest type that a device adds up probabilities in.

    Sums in float32, the widest type of Apple's devices, would lose the rarest tokens elsewhere.
    """
    return torch.float32 if device.type == "mps" else torch.float64


def draw(logits: Tensor, uniform: Tensor, temperature: float) -> Tensor:
    """Draw a token for each row from ``softmax(logits / temperature)``.

    Inverse transform sampling: the token at which the running sum of the probabilities passes a
    uniform number. In a large vocabulary a block of tokens is drawn first, then one of its tokens,
    because the running sum over all of them would take more memory than the logits. Nothing waits
    for the device, and logits that are not finite give some token of the vocabulary.

    Args:
        logits: Logits, [rows, vocabulary].
        uniform: Number in [0, 1) for each row, [rows], in ``exact_type``.
        temperature: Sampling temperature; 0 takes the likeliest token.

    Returns:
        The tokens, [rows].
    """
    if temperature == 0:
        return logits.argmax(-1)
    exact, uniform = uniform.dtype, uniform[:, None]
    chances = (logits.float() / temperature).softmax(-1)
    vocabulary = chances.shape[-1]
    if vocabulary <= _SMALL_VOCABULARY:
        return _pick(chances.to(exact), uniform)[0][:, 0]
    width = math.isqrt(vocabulary)
    blocks = pad(chances, (0, -vocabulary % width)).view(len(uniform), -1, width)
    masses = blocks.sum(-1, dtype=exact)
    block, sums = _pick(masses, uniform)
    rest = (uniform * sums[:, -1:] - sums.gather(-1, block)) / masses.gather(-1, block) + 1
    token, _ = _pick(blocks.take_along_dim(block[..., None], 1)[:, 0].to(exact), rest)
    return (block * width + token).clamp(max=vocabulary - 1)[:, 0]


def _pick(masses: Tensor, shares: Tensor) -> tuple[Tensor, Tensor]:
    """Find where running sums of ``masses`` [rows, choices] pass ``shares`` [rows, 1] of totals.

    Returns:
        The choices, [rows, 1], and the running sums, [rows, choices].
    """
    count = masses.shape[-1]
    sums = masses @ _triangle(count, masses.dtype, masses.device)
    chosen = torch.searchsorted(sums, shares * sums[:, -1:], right=True)
    return chosen.clamp(max=count - 1), sums


@lru_cache(maxsize=8)
def _triangle(size: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return the matrix whose product gives running sums; CUDA has no deterministic cumsum."""
    return torch.ones(size, size, dtype=dtype, device=device).triu()
