"""The cross-entropy of given answers, without logits that outlive a chunk of positions."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sweeper.distillation.chunked_loss import BUDGET, chunked_loss
from sweeper.distillation.models.lm_head import LMHead


def cross_entropy(states: Tensor, head: LMHead, labels: Tensor, *, budget: int = BUDGET) -> Tensor:
    """Return the negative log-likelihood of ``labels`` in nats, summed over positions.

    Args:
        states: The student's states, from ``head.states``.
        head: How the student's logits are made of them.
        labels: The next token of each position.
        budget: Bytes that the logits of one chunk may take.
    """
    return chunked_loss(states, head, _Labels(labels), budget=budget)


@dataclass(frozen=True)
class _Labels:
    """The objective of ``cross_entropy``."""

    labels: Tensor

    def chunk(self, rows: slice, vocabulary: int, device: torch.device) -> Tensor:
        """Return the labels of some positions."""
        return self.labels[rows].to(device)

    def into_gradient(self, logits: Tensor, targets: Tensor, rows: slice, work: Tensor) -> Tensor:
        """Return the negative log-likelihoods; ``logits`` become p - 1[label], their gradient."""
        log_p = torch.log_softmax(logits, -1, out=work[0])
        index = targets[:, None]
        losses = -log_p.gather(-1, index)[:, 0]
        torch.exp(log_p, out=logits)
        logits.scatter_add_(-1, index, torch.full_like(index, -1, dtype=logits.dtype))
        return losses
