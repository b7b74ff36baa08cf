"""Continuous batching: answers share a key-value cache, whose rows they enter and leave.

All texts of a batch end at the same column of the cache, and begin according to their lengths. So a
pass writes one column and reads a rectangle, whatever the lengths. When an answer is done, the last
row moves into its row; nothing else is copied::

    columns  0 1 2 3 4 5 6 7
    row 0    . . p p p a a _      p: prompt, a: answer, _: the tokens that go next
    row 1    . . . . p a a _
    row 2    . p p p p p a _
"""

from __future__ import annotations

import inspect
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from random import Random
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, GenerationMixin
from transformers.cache_utils import Cache, DynamicLayer, DynamicSlidingWindowLayer

_REFILL = 4
"""Rows for one free row at which new prompts are read, in a pass of their own."""

_SPARE_COLUMNS = 64
"""Columns beyond the longest text, so that new prompts seldom make the texts shift."""


def suits(model: Any, length: int) -> bool:
    """Return whether a ``Batch`` feeds the model what the model's own ``generate`` would.

    It does for the classes of transformers that prepare their inputs the standard way and keep the
    keys and values of the whole text in every layer. It does not for recurrent states, for classes
    from a model's repository, or for sliding windows shorter than ``length``, the tokens of the
    longest text.
    """
    kind = type(model)
    needed = {"attention_mask", "position_ids", "past_key_values", "logits_to_keep"}
    return (
        kind.__module__.startswith("transformers.")
        and kind.prepare_inputs_for_generation is GenerationMixin.prepare_inputs_for_generation
        and needed <= set(inspect.signature(kind.forward).parameters)
        and all(
            type(layer) is DynamicLayer
            or (type(layer) is DynamicSlidingWindowLayer and layer.sliding_window >= length)
            for layer in DynamicCache(config=model.config).layers
        )
    )


@dataclass
class Answer:
    """Answer that is being sampled, or waits for a row."""

    index: int
    """Index of its prompt."""
    text: list[int]
    """Tokens of the prompt, then of the answer."""
    seed: str
    done: bool = False

    @cached_property
    def random(self) -> Random:
        """Random numbers of this answer alone."""
        return Random(self.seed)


class Batch:
    """Answers that are sampled together, at most ``rows`` at a time, each in a row of the cache.

    The longest prompt of ``waiting`` comes first: then memory peaks at once, and any prompt finds
    room before the column where the texts end.
    """

    def __init__(
        self, model: Any, waiting: Sequence[Answer], *, rows: int, max_new_tokens: int, pad_id: int
    ) -> None:
        self._model = model
        self._device = next(model.parameters()).device
        self._waiting = deque(waiting)
        self._answers: list[Answer] = []
        self._pad_id = pad_id
        self._end = len(waiting[0].text)
        columns = self._end + max_new_tokens
        if len(waiting) > rows:
            self._window = _Window(rows, columns + _SPARE_COLUMNS, refilled=True)
        else:
            self._window = _Window(len(waiting), columns, refilled=False)
        layers = DynamicCache(config=model.config).layers
        self._cache = Cache(layers=[_Layer(self._window) for _ in layers])

    def read(self) -> tuple[list[Answer], Tensor] | None:
        """Feed the model new prompts, or else the last token of each answer.

        Answers that are ``done`` leave first.

        Returns:
            The fed answers, and the logits of their next tokens, [answers, vocabulary]. None when
            all answers are done.
        """
        self._drop_done()
        free = self._window.rows - len(self._answers)
        if self._waiting and free * _REFILL >= self._window.rows:
            count = min(free, len(self._waiting))
            newcomers = [self._waiting.popleft() for _ in range(count)]
            self._answers += newcomers
            return newcomers, self._forward(newcomers, len(newcomers[0].text))
        if not self._answers:
            return None
        if self._end == self._window.columns:
            self._shift()
        self._end += 1
        return self._answers, self._forward(self._answers, 1)

    def _drop_done(self) -> None:
        """Remove the answers that are done, and fill their rows from the end."""
        done = [row for row, answer in enumerate(self._answers) if answer.done]
        for row in reversed(done):
            last = self._answers.pop()
            if row < len(self._answers):
                self._answers[row] = last
                columns = slice(self._end - len(last.text) + 1, self._end)
                for layer in self._cache.layers:
                    layer.move(len(self._answers), row, columns)

    def _shift(self) -> None:
        """Move the texts to the first columns; waiting prompts are no longer than these texts."""
        longest = max(len(answer.text) - 1 for answer in self._answers)
        kept = slice(self._end - longest, self._end)
        for layer in self._cache.layers:
            layer.shift(kept)
        self._end -= kept.start

    def _forward(self, answers: list[Answer], count: int) -> Tensor:
        """Feed the last rows, which are those of ``answers``, the last ``count`` columns."""
        texts = [answer.text for answer in answers]
        lengths = [len(text) for text in texts]
        width, rows = max(lengths), len(self._answers)
        self._window.active = slice(rows - len(texts), rows)
        self._window.read = slice(self._end - width, self._end)
        self._window.written = slice(self._end - count, self._end)
        tokens = [[self._pad_id] * (count - len(text)) + text[-count:] for text in texts]
        # Position of each column that is read, in each text.
        positions, mask = torch.arange(width, device=self._device)[None], None
        if min(lengths) < width:
            positions = positions - width + torch.tensor(lengths, device=self._device)[:, None]
            mask = (positions >= 0).long()
        output = self._model(
            input_ids=torch.tensor(tokens, device=self._device),
            attention_mask=mask,
            position_ids=positions[:, -count:].clamp(min=0),
            past_key_values=self._cache,
            use_cache=True,
            logits_to_keep=1,
            return_dict=True,
        )
        logits: Tensor = output.logits[:, -1]
        return logits


@dataclass
class _Window:
    """Size of the cache, and the part that the next pass touches; equal in every layer."""

    rows: int
    columns: int
    refilled: bool
    active: slice = field(default_factory=lambda: slice(0))
    """Rows that the pass feeds."""
    read: slice = field(default_factory=lambda: slice(0))
    """Columns that it reads, including those that it writes."""
    written: slice = field(default_factory=lambda: slice(0))
    """Columns that it writes."""


class _Layer(DynamicLayer):  # type: ignore[misc]
    """The keys and values of one layer, [rows, heads, columns, channels], written in place."""

    def __init__(self, window: _Window) -> None:
        super().__init__()
        self._window = window
        self._stores: list[Tensor] = []

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Allocate the cache."""
        window = self._window
        for states in (key_states, value_states):
            shape = window.rows, states.shape[1], window.columns, states.shape[3]
            # A row that was free for a while has unwritten columns; a mask multiplies them by zero,
            # which must not meet a NaN.
            store = states.new_zeros(shape) if window.refilled else states.new_empty(shape)
            self._stores.append(store)
        self.dtype, self.device = key_states.dtype, key_states.device
        self.is_initialized = True

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Write the keys and values of the pass, and return those of its rows."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        window = self._window
        for store, states in zip(self._stores, (key_states, value_states), strict=True):
            store[window.active, :, window.written] = states
        self.keys, self.values = (store[window.active, :, window.read] for store in self._stores)
        return self.keys, self.values

    def get_seq_length(self) -> int:
        """Return the number of columns before those that the pass writes."""
        before: int = self._window.written.start - self._window.read.start
        return before

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Return the number of columns that the pass reads, and the first one."""
        return self.get_seq_length() + query_length, 0

    def move(self, source: int, target: int, columns: slice) -> None:
        """Copy columns of one row to another."""
        for store in self._stores:
            store[target, :, columns] = store[source, :, columns]

    def shift(self, kept: slice) -> None:
        """Move columns to the beginning."""
        for store in self._stores:
            store[:, :, : kept.stop - kept.start] = store[:, :, kept].clone()
