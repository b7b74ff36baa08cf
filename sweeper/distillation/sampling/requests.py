"""What is to be sampled."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sweeper.distillation.sampling.decoding import Answer


@dataclass(frozen=True)
class Request:
    """Arguments of ``rollouts.generate``, but for the model."""

    prompts: Sequence[Sequence[int]]
    numbers: Sequence[int]
    temperature: float
    max_new_tokens: int
    ends: frozenset[int]
    pad_id: int
    seed: int
    batch_size: int

    @property
    def longest(self) -> int:
        """Most tokens of a text, its answer included."""
        return max(map(len, self.prompts)) + self.max_new_tokens

    def order(self) -> list[int]:
        """Return the prompts' indices, longest first: memory peaks early, and the end is short."""
        indices = range(len(self.prompts))
        return sorted(indices, key=lambda index: len(self.prompts[index]), reverse=True)

    def answers(self) -> list[Answer]:
        """Return an answer to fill for each prompt, in the order of ``order``."""
        return [
            Answer(index, list(self.prompts[index]), f"{self.seed}/{self.numbers[index]}")
            for index in self.order()
        ]
