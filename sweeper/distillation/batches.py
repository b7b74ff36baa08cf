"""From token sequences to batches: order, padding, labels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from datasets import Dataset

from sweeper.distillation.data import TokenSequence

IGNORED = -100
"""The label of positions that the loss passes over."""


class EndlessPermutations(torch.utils.data.Sampler[int]):
    """Indices for a whole training: one shuffled epoch after another, from one seed.

    The stock sampler ends each epoch with a batch of what is left, which for small data means steps
    on a fraction of the sequences; here every batch is full.

    Args:
        rows: The number of rows.
        draws: The number of indices to give.
        seed: Decides the order.
    """

    def __init__(self, rows: int, draws: int, seed: int) -> None:
        self._rows, self._draws, self._seed = rows, draws, seed

    def __len__(self) -> int:
        return self._draws

    def __iter__(self) -> Iterator[int]:
        left, epoch = self._draws, 0
        while left > 0:
            # Epochs are seeded as accelerate's sampler seeds them, so that whole epochs are alike.
            generator = torch.Generator().manual_seed(self._seed + epoch)
            order = torch.randperm(self._rows, generator=generator)[:left]
            yield from order.tolist()
            left, epoch = left - len(order), epoch + 1


class PromptCollator:
    """Right-pads token sequences and keeps each prompt beside them.

    Gives ``input_ids``, ``attention_mask`` and ``labels`` (batch × length; -100 where no loss is
    taken) and ``prompts``, a list of token id lists.
    """

    def __init__(self, pad_id: int) -> None:
        self._pad_id = pad_id

    def __call__(self, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Make one batch."""
        pairs = [(row["prompt"], row["completion"]) for row in rows]
        return {**self.pad(pairs), "prompts": [row["prompt"] for row in rows]}

    def pad(self, pairs: Sequence[tuple[Sequence[int], Sequence[int]]]) -> dict[str, torch.Tensor]:
        """Tensors for (prompt, completion) pairs."""
        width = max(len(prompt) + len(completion) for prompt, completion in pairs)
        shape = (len(pairs), width)
        tokens = torch.full(shape, self._pad_id, dtype=torch.long)
        mask = torch.zeros(shape, dtype=torch.long)
        labels = torch.full(shape, IGNORED, dtype=torch.long)
        for row, (prompt, completion) in enumerate(pairs):
            start, end = len(prompt), len(prompt) + len(completion)
            tokens[row, :end] = torch.tensor([*prompt, *completion])
            mask[row, :end] = 1
            labels[row, start:end] = tokens[row, start:end]
        return {"input_ids": tokens, "attention_mask": mask, "labels": labels}


def rows(sequences: Sequence[TokenSequence]) -> Dataset:
    """A dataset for ``OnPolicyTrainer``: ``prompt`` and ``completion`` as token ids."""
    return Dataset.from_dict(
        {
            "prompt": [list(sequence.prompt) for sequence in sequences],
            "completion": [list(sequence.completion or ()) for sequence in sequences],
        }
    )


def labelled_rows(sequences: Sequence[TokenSequence]) -> Dataset:
    """A dataset for ``OfflineTrainer``: ``input_ids`` and ``labels``, prompts masked."""
    inputs, labels = [], []
    for sequence in sequences:
        completion = list(sequence.completion or ())
        inputs.append([*sequence.prompt, *completion])
        labels.append([IGNORED] * len(sequence.prompt) + completion)
    return Dataset.from_dict({"input_ids": inputs, "labels": labels})
