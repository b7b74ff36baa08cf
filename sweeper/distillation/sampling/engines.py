"""What samples rollouts: each engine takes a student and prompts, and returns an answer to each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from sweeper.distillation.sampling.rollouts import Rollout


class Engine(Protocol):
    """Samples one answer to each prompt; ``rollouts.generate`` is one, and says what it takes."""

    def __call__(
        self,
        model: Any,
        prompts: Sequence[Sequence[int]],
        *,
        temperature: float,
        max_new_tokens: int,
        end_ids: Sequence[int],
        pad_id: int,
        seed: int,
        batch_size: int,
        numbers: Sequence[int] | None = None,
        report: Callable[[int], None] = lambda done: None,
    ) -> list[Rollout]:
        """Return the answers in the order of the prompts."""
