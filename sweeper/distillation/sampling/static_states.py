"""Keys, values and recurrent states in fixed places, for passes whose shapes do not change.

Each text has a row, and the token at position p of a text has column p of its row::

    columns  0 1 2 3 4 5 6 7
    row 0    p p p a _ . . .      p: prompt, a: answer, _: the token that goes next
    row 1    p p p p p a a _
    row 2    p _ . . . . . .

So rows do not depend on each other: a new text takes the row of one that has ended, whatever its
length. A layer that sees a window of n tokens has n columns, position p in column p modulo n.
Keys carry their positions, so the order of the columns does not matter to attention.

A prompt is read in a pass of its own, padded on the left as the library does it, and its keys and
values move to their columns. After that, each pass writes one column of each row.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import (
    Cache,
    DummyLayer,
    DynamicLayer,
    DynamicSlidingWindowLayer,
    LinearAttentionAndFullAttentionLayer,
    LinearAttentionAndSlidingWindowAttentionLayer,
    LinearAttentionLayer,
)

_ATTENTION = (DynamicLayer, DynamicSlidingWindowLayer)
_HYBRID = (
    LinearAttentionAndFullAttentionLayer,
    LinearAttentionAndSlidingWindowAttentionLayer,
)
_KNOWN = {*_ATTENTION, *_HYBRID, LinearAttentionLayer, DummyLayer}


def unknown_layers(config: Any) -> list[str]:
    """Return the kinds of a model's cache layers that ``StaticStates`` does not hold."""
    layers = DynamicCache(config=config).layers
    return sorted({type(layer).__name__ for layer in layers if type(layer) not in _KNOWN})


def windows(config: Any) -> set[int | None]:
    """Return the windows of a model's attention layers, in tokens; None is for a whole text."""
    return {
        getattr(layer, "sliding_window", None)
        for layer in DynamicCache(config=config).layers
        if isinstance(layer, DynamicLayer)
    }


@dataclass
class _Attention:
    """Keys and values of one layer, [rows, heads, columns, channels]."""

    rows: int
    columns: int
    sliding: bool
    tensors: tuple[Tensor, Tensor] | None = None

    def write(self, states: tuple[Tensor, Tensor], rows: Tensor, source: Tensor) -> None:
        """Write the states of prompts, [prompts, heads, tokens, channels].

        Args:
            states: Keys and values.
            rows: Row of each prompt, [prompts].
            source: Token that each of the first columns takes, [prompts, columns].
        """
        if self.tensors is None:
            # A mask multiplies unwritten columns by zero, which must not meet a NaN.
            keys, values = (
                part.new_zeros(self.rows, part.shape[1], self.columns, part.shape[3])
                for part in states
            )
            self.tensors = keys, values
        for store, part in zip(self.tensors, states, strict=True):
            index = source[:, None, :, None].expand(-1, part.shape[1], -1, part.shape[3])
            columns = part.gather(2, index).to(store.dtype)
            store[:, :, : source.shape[1]].index_copy_(0, rows, columns)


@dataclass
class _Recurrent:
    """Convolution and recurrent states of one layer, by the number of the state."""

    rows: int
    count: int
    convolutions: dict[int, Tensor] = field(default_factory=dict)
    states: dict[int, Tensor] = field(default_factory=dict)
    kernel_sizes: dict[int, int | None] = field(default_factory=dict)

    def write(self, layer: LinearAttentionLayer, rows: Tensor) -> None:
        """Write the states that a layer has after it read the prompts of ``rows``."""
        self.kernel_sizes = dict(layer.conv_kernel_size)
        for stores, news in (
            (self.convolutions, layer.conv_states),
            (self.states, layer.recurrent_states),
        ):
            for number, new in news.items():
                if new is not None:
                    if number not in stores:
                        stores[number] = new.new_zeros(self.rows, *new.shape[1:])
                    stores[number].index_copy_(0, rows, new)

    def lend(self, layer: LinearAttentionLayer, rows: int) -> None:
        """Let a layer read and write the states of the first rows, in place."""
        for number in range(self.count):
            layer.has_previous_state[number] = True
            layer.conv_kernel_size[number] = self.kernel_sizes.get(number)
            for stores, theirs, flags in (
                (self.convolutions, layer.conv_states, layer.is_conv_states_initialized),
                (self.states, layer.recurrent_states, layer.is_recurrent_states_initialized),
            ):
                if number in stores:
                    theirs[number] = stores[number][:rows]
                    flags[number] = True
                    layer.dtype, layer.device = stores[number].dtype, stores[number].device


class StaticStates:
    """All states of a batch.

    Args:
        config: Configuration of the model, all of whose cache layers are known.
        rows: Texts at a time.
        columns: Most tokens of a text.
    """

    def __init__(self, config: Any, *, rows: int, columns: int) -> None:
        self.columns = columns
        self._layers: list[tuple[_Attention | None, _Recurrent | None]] = []
        for layer in DynamicCache(config=config).layers:
            kind = type(layer)
            attention = recurrent = None
            if kind in _ATTENTION or kind in _HYBRID:
                window = getattr(layer, "sliding_window", None)
                seen = columns if window is None else min(window, columns)
                attention = _Attention(rows, seen, window is not None)
            if isinstance(layer, LinearAttentionLayer):
                recurrent = _Recurrent(rows, layer.number_of_states)
            self._layers.append((attention, recurrent))

    def reader(self, rows: Tensor, lengths: Tensor, width: int) -> Cache:
        """Return the cache for a pass that reads prompts, padded on the left.

        ``take`` has to follow the pass.

        Args:
            rows: Row of each prompt, [prompts].
            lengths: Tokens of each prompt, [prompts].
            width: Tokens of the longest.
        """
        places = _Prompts(rows, lengths, width)
        return Cache(layers=[_reading(*layer, places) for layer in self._layers])

    def take(self, cache: Cache, rows: Tensor) -> None:
        """Keep the recurrent states that a ``reader`` has after its pass."""
        for layer, (_, recurrent) in zip(cache.layers, self._layers, strict=True):
            if recurrent is not None:
                recurrent.write(layer, rows)

    def stepper(self, step: Step) -> Cache:
        """Return the cache for passes that read and write one token of each of the first rows."""
        return Cache(layers=[_stepping(*layer, step) for layer in self._layers])

    @property
    def window(self) -> int:
        """Columns of the layers with a sliding window; those of whole texts if there are none."""
        windows = {layer.columns for layer, _ in self._layers if layer is not None}
        return min(windows, default=self.columns)

    @property
    def all_windowed(self) -> bool:
        """True if all attention has a sliding window."""
        return all(layer.sliding for layer, _ in self._layers if layer is not None)

    def move(self, sources: Tensor, targets: Tensor) -> None:
        """Copy rows to other rows."""
        for tensor in self._tensors():
            tensor.index_copy_(0, targets, tensor.index_select(0, sources))

    def _tensors(self) -> Iterator[Tensor]:
        for attention, recurrent in self._layers:
            if attention is not None and attention.tensors is not None:
                yield from attention.tensors
            if recurrent is not None:
                yield from recurrent.convolutions.values()
                yield from recurrent.states.values()


@dataclass
class Step:
    """Shape of a pass of one token a row, and the columns that it writes."""

    rows: int
    width: int
    """Columns that it reads, of those that hold whole texts."""
    slots: dict[int, Tensor] = field(default_factory=dict)
    """Column that each row writes, [rows], by the number of a layer's columns."""


@dataclass
class _Prompts:
    """Prompts of a pass."""

    rows: Tensor
    lengths: Tensor
    width: int
    _sources: dict[int, Tensor] = field(default_factory=dict)

    def source(self, columns: int) -> Tensor:
        """Return the token that each column takes, [prompts, min(columns, width)].

        Column s of n takes the last position that is s modulo n. Columns that no position has take
        any token: a mask hides them until they are written.
        """
        if columns not in self._sources:
            last = self.lengths[:, None] - 1
            column = torch.arange(min(columns, self.width), device=last.device)
            position = last - (last - column) % columns
            self._sources[columns] = (position + self.width - 1 - last).clamp(min=0)
        return self._sources[columns]


class _ReadingLayer(DynamicLayer):  # type: ignore[misc]
    """Attention over prompts alone, whose keys and values it stores."""

    def __init__(self, store: _Attention, prompts: _Prompts) -> None:
        super().__init__()
        self.is_sliding = store.sliding
        self.is_initialized = True
        self._store = store
        self._prompts = prompts

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Store the prompts' keys and values, and return them."""
        source = self._prompts.source(self._store.columns)
        self._store.write((key_states, value_states), self._prompts.rows, source)
        return key_states, value_states

    def get_seq_length(self) -> int:
        """Return the tokens that came before."""
        return 0

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Return the number of columns that the pass reads, and the first one."""
        return query_length, 0


class _SteppingLayer(DynamicLayer):  # type: ignore[misc]
    """Attention over the columns of the first rows, one of which each row writes."""

    is_compileable = True  # No mask is left out: that would take a look at its values.

    def __init__(self, store: _Attention, step: Step) -> None:
        super().__init__()
        self.is_sliding = store.sliding
        self.is_initialized = True
        self._columns = store.columns
        self._width = min(store.columns, step.width)
        self._step = step
        # A layer that takes another's keys and values has none.
        if store.tensors is not None:
            self.keys, self.values = (
                tensor[: step.rows, :, : self._width] for tensor in store.tensors
            )

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Write the token's keys and values, and return those of the rows."""
        slots = self._step.slots[self._columns][:, None, None, None]
        for store, states in ((self.keys, key_states), (self.values, value_states)):
            index = slots.expand(-1, states.shape[1], -1, states.shape[3])
            store.scatter_(2, index, states.to(store.dtype))
        return self.keys, self.values

    def get_seq_length(self) -> int:
        """Return the columns before the last: to masks, every row's token is in the last one."""
        return self._width - 1

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Return the number of columns that the pass reads, and the first one."""
        return self._width, 0


class _ReadingHybrid(LinearAttentionLayer, _ReadingLayer):  # type: ignore[misc]
    is_compileable = False

    def __init__(self, attention: _Attention, recurrent: _Recurrent, prompts: _Prompts) -> None:
        _ReadingLayer.__init__(self, attention, prompts)
        LinearAttentionLayer.__init__(self, recurrent.count)


class _SteppingHybrid(LinearAttentionLayer, _SteppingLayer):  # type: ignore[misc]
    is_compileable = True

    def __init__(self, attention: _Attention, recurrent: _Recurrent, step: Step) -> None:
        _SteppingLayer.__init__(self, attention, step)
        LinearAttentionLayer.__init__(self, recurrent.count)


def _reading(attention: _Attention | None, recurrent: _Recurrent | None, prompts: _Prompts) -> Any:
    """Return the layer of a pass that reads prompts."""
    if attention is not None and recurrent is not None:
        return _ReadingHybrid(attention, recurrent, prompts)
    if attention is not None:
        return _ReadingLayer(attention, prompts)
    return DummyLayer() if recurrent is None else LinearAttentionLayer(recurrent.count)


def _stepping(attention: _Attention | None, recurrent: _Recurrent | None, step: Step) -> Any:
    """Return the layer of a pass of one token a row."""
    layer: Any = DummyLayer()
    if attention is not None and recurrent is not None:
        layer = _SteppingHybrid(attention, recurrent, step)
    elif attention is not None:
        layer = _SteppingLayer(attention, step)
    elif recurrent is not None:
        layer = LinearAttentionLayer(recurrent.count)
    if recurrent is not None:
        recurrent.lend(layer, step.rows)
    return layer
