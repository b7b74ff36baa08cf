"""From token sequences to batches: order, padding, labels."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch

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


@dataclass(frozen=True)
class BatchRows:
    """Rows of one batch in main memory, for what must not wait for a device.

    It has no ``to`` and is no container, so libraries that move batches pass it on as it is.

    Attributes:
        sequences: Tokens of each row, as they stand in the batch.
        indices: Numbers of the rows in the dataset; None if these are no rows of it, but rollouts.
        trained: Number of labels on which a loss is taken.
        predicted: Number of those that a token before them predicts.
    """

    sequences: tuple[TokenSequence, ...]
    indices: tuple[int, ...] | None
    trained: int
    predicted: int


class PromptCollator:
    """Collator that right-pads token sequences, and keeps them next to the batch.

    Gives ``input_ids``, ``attention_mask`` and ``labels`` (batch × length; -100 where no loss is
    taken), ``positions``, those of ``counted_positions``, and ``rows``, a ``BatchRows``.
    """

    def __init__(self, pad_id: int) -> None:
        self._pad_id = pad_id

    def __call__(self, rows: Sequence[tuple[int, TokenSequence]]) -> dict[str, Any]:
        """Make one batch of rows of a ``Rows``."""
        indices, sequences = zip(*rows, strict=True)
        return self.batch(sequences, indices)

    def batch(
        self, sequences: Sequence[TokenSequence], indices: tuple[int, ...] | None
    ) -> dict[str, Any]:
        """Make one batch of sequences.

        Args:
            sequences: Sequences of tokens.
            indices: Their numbers in the dataset; None if they are not of it.
        """
        pairs = [(sequence.prompt, sequence.completion or ()) for sequence in sequences]
        batch = self.pad(pairs, [sequence.earlier for sequence in sequences])
        positions = counted_positions(batch["labels"])
        trained = sum(sequence.trained for sequence in sequences)
        rows = BatchRows(tuple(sequences), indices, trained, len(positions))
        return {**batch, "positions": positions, "rows": rows}

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


class Rows(torch.utils.data.Dataset[tuple[int, TokenSequence]]):
    """Dataset of ``Distiller``: each row's number, and its sequence."""

    def __init__(self, sequences: Sequence[TokenSequence]) -> None:
        self._sequences = sequences

    def __len__(self) -> int:
        return len(self._sequences)

    def __getitem__(self, index: int) -> tuple[int, TokenSequence]:
        return index, self._sequences[index]


def counted_positions(labels: torch.Tensor) -> torch.Tensor:
    """Return the positions whose prediction of the next token counts (int64, ascending).

    Positions are numbered row by row: that of row i and column j is i × length + j. On labels in
    main memory this waits for no device.

    Args:
        labels: Labels (batch × length).
    """
    next_counts = torch.zeros(labels.shape, dtype=torch.bool, device=labels.device)
    next_counts[:, :-1] = labels[:, 1:] != IGNORED
    return next_counts.flatten().nonzero()[:, 0]


def next_values(values: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """Return what ``values`` (batch × length) have one column after each of ``positions``."""
    return values.flatten().index_select(0, positions + 1)


def sent(values: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Return a tensor of main memory on ``device``, without waiting for the copy to arrive."""
    if device.type != "cuda" or values.device.type != "cpu":
        return values.to(device)
    # Only from pinned memory does a copy leave the caller free.
    return values.pin_memory().to(device, non_blocking=True)
