"""What the pass of a divergence shows of tokens that the student sampled, without another pass."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

_LEAST = -1e20
"""Logit below which a token is ruled out."""


@dataclass
class ReportedLogProbs:
    """Log-probabilities that an engine reported of tokens it sampled, and how far the model's are.

    Attributes:
        log_probs: Log-probability of each position's token in nats.
        temperature: Temperature of the distribution that they are of.
        differences: Sum of the absolute differences from the model's, and the largest.
    """

    log_probs: Tensor
    temperature: float
    differences: Tensor

    @classmethod
    def of(cls, log_probs: Tensor, temperature: float) -> Self:
        """Begin with differences of zero."""
        return cls(log_probs, temperature, torch.zeros(2, device=log_probs.device))

    def compare(self, rows: slice, chosen: Tensor, scale: Tensor, p: Tensor) -> None:
        """Compare some positions.

        Args:
            rows: The positions.
            chosen: Logits of their tokens.
            scale: log Σ exp(logits) of the positions.
            p: Softmax of the logits (positions × vocabulary).
        """
        if not len(chosen):
            return
        temperature = self.temperature
        if temperature != 1:
            chosen, scale = chosen / temperature, scale / temperature
            scale = scale + p.pow(1 / temperature).sum(-1).log()
        theirs = self.log_probs[rows].to(chosen)
        difference = (chosen - scale - theirs).abs().to(self.differences)
        self.differences[0] += difference.sum()
        self.differences[1].clamp_(min=difference.amax())


@dataclass
class SampledTokens:
    """Tokens that the student sampled, and sums over them that their divergence gives in passing.

    Attributes:
        tokens: Next token of each position.
        sums: Entropy of the student, entropy of the teacher, and the teacher's log-probability of
            the tokens, each in nats and summed over positions; zeros before the divergence. All
            are of the distributions at temperature 1 over the tokens that the divergence compares.
        reported: What the engine that sampled them has reported, if it does.
    """

    tokens: Tensor
    sums: Tensor
    reported: ReportedLogProbs | None = None

    @classmethod
    def of(cls, tokens: Tensor, reported: ReportedLogProbs | None = None) -> Self:
        """Begin with sums of zero."""
        return cls(tokens, torch.zeros(3, device=tokens.device), reported)

    def differences(self) -> Tensor:
        """Return the differences from what was reported; zeros if nothing was."""
        none = self.sums.new_zeros(2)
        return none if self.reported is None else self.reported.differences.to(none)

    def add(
        self, rows: slice, z: Tensor, teacher: Tensor, p: Tensor, q: Tensor, *, scratch: Tensor
    ) -> None:
        """Add some positions.

        Args:
            rows: The positions.
            z: Logits of the student (positions × vocabulary).
            teacher: Logits of the teacher.
            p: Probabilities of the student.
            q: Probabilities of the teacher.
            scratch: Space of the same shape, which may be ``z``.
        """
        index = self.tokens[rows].to(z.device)[:, None]
        ours = z.gather(-1, index)[:, 0]
        entropy, our_scale = _entropy(z, p, scratch=scratch)
        if self.reported is not None:
            self.reported.compare(rows, ours, our_scale, p)
        chosen = teacher.gather(-1, index)[:, 0]
        theirs, scale = _entropy(teacher, q, scratch=scratch)
        found = torch.stack([entropy, theirs, chosen - scale]).sum(1)
        self.sums += found.to(self.sums)

    def add_student(self, rows: slice, z: Tensor, p: Tensor, *, scratch: Tensor) -> None:
        """Add what is known of some positions without the teacher: the student's entropy.

        Args:
            rows: The positions.
            z: Logits of the student (positions × vocabulary).
            p: Probabilities of the student.
            scratch: Space of the same shape, which is not ``z``.
        """
        entropy, scale = _entropy(z, p, scratch=scratch)
        if self.reported is not None:
            index = self.tokens[rows].to(z.device)[:, None]
            self.reported.compare(rows, z.gather(-1, index)[:, 0], scale, p)
        self.sums[0] += entropy.sum().to(self.sums)


def _entropy(z: Tensor, p: Tensor, *, scratch: Tensor) -> tuple[Tensor, Tensor]:
    """Return the entropy of softmax(z) in nats, and log Σ exp(z), of each position.

    Both follow from ``p``, the softmax, without another exponential or logarithm of all logits:
    the entropy is log Σ exp(z) - Σ p z.

    Args:
        z: Logits (positions × vocabulary); tokens ruled out by -inf count for nothing.
        p: Their softmax.
        scratch: Space of the same shape, which may be ``z``.
    """
    scale = z.amax(-1) - p.amax(-1).log()
    # So low that p z vanishes, even if p was raised to the smallest normal number.
    weighted = torch.clamp(z, min=_LEAST, out=scratch).mul_(p)
    return (scale - weighted.sum(-1)).clamp_(min=0), scale
