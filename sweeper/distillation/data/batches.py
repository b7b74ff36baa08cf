"""From token sequences to batches: order, padding, labels."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

import torch
from datasets import Dataset

from sweeper.distillation.data.examples import TokenSequence

IGNORED = -100
"""Label of positions that the loss skips."""


class EndlessPermutations(torch.utils.data.Sampler[int]):
    """Indices of a whole training: one shuffled epoch after another, from one seed.

    The stock sampler ends each epoch with a batch of what is left, which for small data means steps
    on a fraction of the sequences; here every batch is full.

    Args:
        rows: Number of rows.
        draws: Number of indices to give.
        seed: Seed of the order.
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


SPAN = 16
"""Number of micro-batches whose rows are sorted by length together."""


class LengthBuckets(torch.utils.data.Sampler[int]):
    """Indices of another sampler, with rows of similar length in the same micro-batch.

    The rows of a span of micro-batches are sorted by length and cut into micro-batches, which come
    in a random order: less padding, and the same rows over the span.

    Args:
        indices: Sampler to rearrange.
        lengths: Lengths of all rows, in tokens.
        batch_size: Rows of one micro-batch.
        seed: Seed of the order of the micro-batches.
    """

    def __init__(
        self,
        indices: torch.utils.data.Sampler[int],
        lengths: Sequence[int],
        batch_size: int,
        seed: int,
    ) -> None:
        self._indices, self._lengths = indices, lengths
        self._batch_size, self._seed = batch_size, seed

    def __len__(self) -> int:
        return len(self._indices)  # type: ignore[arg-type]

    def __iter__(self) -> Iterator[int]:
        every, order = iter(self._indices), random.Random(self._seed)
        while rows := list(islice(every, SPAN * self._batch_size)):
            rows.sort(key=lambda row: self._lengths[row])
            starts = list(range(0, len(rows), self._batch_size))
            order.shuffle(starts)
            for start in starts:
                yield from rows[start : start + self._batch_size]


class PromptCollator:
    """Collator that right-pads token sequences and keeps each prompt next to them.

    Gives ``input_ids``, ``attention_mask`` and ``labels`` (batch × length; -100 where no loss is
    taken), ``prompts``, a list of token id lists, and ``indices``, the rows' numbers.
    """

    def __init__(self, pad_id: int) -> None:
        self._pad_id = pad_id

    def __call__(self, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Make one batch."""
        pairs = [(row["prompt"], row["completion"]) for row in rows]
        prompts = [row["prompt"] for row in rows]
        batch = self.pad(pairs, [row.get("earlier", ()) for row in rows])
        return {**batch, "prompts": prompts, "indices": [row["index"] for row in rows]}

    def pad(
        self,
        pairs: Sequence[tuple[Sequence[int], Sequence[int]]],
        earlier: Sequence[Sequence[Sequence[int]]] = (),
    ) -> dict[str, torch.Tensor]:
        """Return padded tensors of (prompt, completion) pairs.

        ``earlier`` has the spans of each prompt that are trained too.
        """
        width = max(len(prompt) + len(completion) for prompt, completion in pairs)
        shape = (len(pairs), width)
        tokens = torch.full(shape, self._pad_id, dtype=torch.long)
        mask = torch.zeros(shape, dtype=torch.long)
        labels = torch.full(shape, IGNORED, dtype=torch.long)
        for row, (prompt, completion) in enumerate(pairs):
            start, end = len(prompt), len(prompt) + len(completion)
            tokens[row, :end] = torch.tensor([*prompt, *completion])
            mask[row, :end] = 1
            for first, last in [*(earlier[row] if earlier else ()), (start, end)]:
                labels[row, first:last] = tokens[row, first:last]
        return {"input_ids": tokens, "attention_mask": mask, "labels": labels}


def lengths(sequences: Sequence[TokenSequence]) -> list[int]:
    """Return the tokens of each prompt and answer together."""
    return [len(sequence.prompt) + len(sequence.completion or ()) for sequence in sequences]


def rows(sequences: Sequence[TokenSequence]) -> Dataset:
    """Build ``Distiller``'s dataset: ``index``, ``prompt`` and ``completion`` (token ids).

    ``earlier`` has the spans of the prompt that are trained too.
    """
    return Dataset.from_dict(
        {
            "index": list(range(len(sequences))),
            "prompt": [list(sequence.prompt) for sequence in sequences],
            "completion": [list(sequence.completion or ()) for sequence in sequences],
            "earlier": [[list(span) for span in sequence.earlier] for sequence in sequences],
        }
    )
