"""Trainers: one for every arm, and TRL's own for ``engine: trl``.

This is the only package that imports TRL. The loss belongs to ``chunked_loss`` and ``divergence``,
sampling to ``sampling``. Start with ``distiller.Distiller``. It differs from the stock
``GKDTrainer``:

- **The on-policy loss is divided by the tokens it is taken over.** Stock divides by the token count
  of the *reference* answers, counted before a rollout replaces them, so the effective learning rate
  moves with ``max_new_tokens`` and ``lmbda``. ``stock_normalization: true`` restores that.
- **Rollouts keep their key-value cache**, also with gradient checkpointing, and are sampled once
  per accumulation window: the weights do not change within it.
- **Rollouts come from the student's own distribution**: the publisher's generation settings (top-k,
  repetition penalties) are ignored, and the chat template's end-of-turn token ends an answer.
- **Sequences are right-padded** in the training forward, so positions are right for models that
  learn them.
- **``seq_kd`` uses the teacher's stored answers**, instead of sampling new ones in each step.
- **Every batch is full**: there is no smaller batch at the end of an epoch.
- **Batches hold sequences of similar length** (``length_bucketing: false`` turns that off).
- **Only positions that count** go through the heads and the divergence, one chunk at a time.
- **The teacher reads fixed sequences once**: its last hidden states are stored.
- **All draws have their own seed**: data order, on-policy coin and rollouts are independent.
- **Several processes train as one does on the same sequences.** Stock divides the sum over all
  processes' tokens by the number of processes once more.
"""

from __future__ import annotations

from typing import Any

from torch.nn.modules.dropout import _DropoutNd
from transformers import PretrainedConfig

from sweeper.distillation.trainers.arguments import arguments, uses_teacher
from sweeper.distillation.trainers.distiller import Distiller, Sampling, autocast_dtype
from sweeper.distillation.trainers.losses import ReferenceLoss, TeacherLoss, TokenLoss
from sweeper.distillation.trainers.served_loss import ServedTeacherLoss, tokens_to_report
from sweeper.distillation.trainers.stock import StockGKDTrainer, StockSFTTrainer

__all__ = [
    "Distiller",
    "ReferenceLoss",
    "Sampling",
    "ServedTeacherLoss",
    "StockGKDTrainer",
    "StockSFTTrainer",
    "TeacherLoss",
    "TokenLoss",
    "arguments",
    "autocast_dtype",
    "tokens_to_report",
    "uses_teacher",
    "without_dropout",
]


def without_dropout(model: Any) -> None:
    """Turn dropout off in place: an adapter's and that of whole layers included.

    Modules hold probabilities, or read them from the model's configuration at each use.
    """
    found = [getattr(module, "config", None) for module in model.modules()]
    configs = {id(config): config for config in found if isinstance(config, PretrainedConfig)}
    for holder in (*model.modules(), *configs.values()):
        values = vars(holder)
        values |= {k: 0.0 for k, v in values.items() if "drop" in k and isinstance(v, float)}
        if isinstance(holder, _DropoutNd):
            holder.p = 0.0
