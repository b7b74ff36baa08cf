"""The teacher's head without its body, for trials whose sequences all have stored states.

Such a trial computes logits from states, and nothing else. Of a model of 7 billion parameters, the
head has half a billion.
"""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor, nn

from sweeper.config.models import ModelConfig
from sweeper.distillation.models.head_loading import load_head
from sweeper.distillation.models.lm_head import LMHead
from sweeper.records import Record

_CORNER = 8
"""Numbers of a row of weights that are compared."""


class HeadTraits(Record):
    """What a model's head was like when the states were stored."""

    scale: float
    """Factor of its logits."""
    cap: float | None
    """Soft cap of its logits, if it has one."""
    dtype: str
    """Type of its weights: ``bfloat16``."""
    shape: tuple[int, int]
    """Number of logits, and of the states' channels."""
    corners: tuple[tuple[float, ...], ...]
    """First weights of the first row, and of the last."""

    @classmethod
    def of(cls, lm_head: LMHead) -> Self | None:
        """Return the traits of a head; None if it is not a plain linear layer."""
        head = lm_head.head
        if type(head) is not nn.Linear or head.weight.is_meta:
            return None
        return cls(
            scale=lm_head.scale,
            cap=lm_head.cap,
            dtype=str(head.weight.dtype).removeprefix("torch."),
            shape=(head.weight.shape[0], head.weight.shape[1]),
            corners=_corners(head.weight),
        )

    def load(self, model: ModelConfig, device: str) -> LMHead | None:
        """Load the head from the model's files to ``device``, without the rest of the model.

        Returns:
            None if the files do not show which weights are the head's, or if those have other
            traits: then the whole model has to be loaded.
        """
        head = load_head(model, device, getattr(torch, self.dtype))
        if head is None or tuple(head.weight.shape) != self.shape:
            return None
        if _corners(head.weight) != self.corners:
            return None
        return LMHead(None, head=head, scale=self.scale, cap=self.cap)


def _corners(weight: Tensor) -> tuple[tuple[float, ...], ...]:
    ends = weight.detach()[[0, -1], :_CORNER].float().tolist()
    return tuple(tuple(row) for row in ends)
