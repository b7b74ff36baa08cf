"""Decoding with shapes that do not change, for devices that wait for their host otherwise.

A pass of the model takes as long to launch on a GPU as to run there, or longer. So here a pass of
one token a row, with the drawing and the bookkeeping of answers that end, is one function of
tensors in fixed places, which a CUDA graph launches at once. The host reads once in a block of
``_BLOCK`` tokens. Answers that have ended are fed on to the end of their block; then new prompts
take their rows, or the batch shrinks to a smaller bucket. A bucket is a number of rows and one of
columns; each has a graph of its own.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from sweeper.distillation.sampling.decoding import Answer
from sweeper.distillation.sampling.drawing import NOT_FINITE, draw, exact_type
from sweeper.distillation.sampling.graphs import GraphedPass, Graphs
from sweeper.distillation.sampling.requests import Request
from sweeper.distillation.sampling.static_masks import Masks
from sweeper.distillation.sampling.static_states import StaticStates, Step
from sweeper.foundation.errors import DivergedError

_BLOCK = 16
"""Tokens of each row between two looks of the host."""
_REFILL = 4
"""Rows for one free row at which new prompts are read, in a pass of their own."""
_FEWEST_ROWS = 8
"""Rows of the smallest bucket: fewer take a GPU no less time."""
_FEWEST_COLUMNS = 128
"""Columns below which a narrower bucket saves nothing."""
_MULTIPLE = 16
"""What columns are a multiple of: attention with a mask has aligned kernels."""
_LOGGER = logging.getLogger(__name__)


@torch.inference_mode()
def decode(
    model: Any, request: Request, *, graphs: bool
) -> Generator[tuple[int, list[int]], None, None]:
    """Yield the index of each prompt and its answer, a few at a time.

    Args:
        model: A model that ``static_models.why_not`` has nothing against.
        request: What to sample.
        graphs: Capture passes as CUDA graphs.

    Raises:
        DivergedError: The model's logits are not finite.
    """
    device = next(model.parameters()).device
    captured = Graphs(device, None if graphs else "they are off")
    batch = StaticBatch(model, request, device, captured)
    try:
        with _masked_attention(model):
            while not batch.finished:
                for answer in batch.advance():
                    yield answer.index, answer.text[len(request.prompts[answer.index]) :]
    finally:
        captured.release()
    if graphs and captured.problem is not None:
        tell_once(f"{type(model).__name__} is sampled from without CUDA graphs: {captured.problem}")


@lru_cache
def tell_once(message: str) -> None:
    """Write a warning to the job's log, once a process and not at every step."""
    _LOGGER.warning(message)


@contextmanager
def _masked_attention(model: Any) -> Iterator[None]:
    """Let attention take a mask: flash attention would look at its values in every layer."""
    config = model.config
    configured = config._attn_implementation
    if configured in ("eager", "sdpa"):
        yield
        return
    capped = getattr(config.get_text_config(), "attn_logit_softcapping", None) is not None
    config._attn_implementation = "sdpa" if model._supports_sdpa and not capped else "eager"
    try:
        yield
    finally:
        config._attn_implementation = configured


class StaticBatch:
    """Answers that are sampled together, each in a row.

    The longest prompt comes first, so memory peaks at once.
    """

    def __init__(self, model: Any, request: Request, device: torch.device, graphs: Graphs) -> None:
        self._model = model
        self._request = request
        self._device = device
        self._graphs = graphs
        self._waiting = deque(request.answers())
        count = min(request.batch_size, len(self._waiting))
        self._rows: list[Answer | None] = [None] * count
        self._unread: set[int] = set()
        """Rows whose first token is on the device only."""
        self._buckets: dict[tuple[int, int], GraphedPass] = {}
        self._active = count
        """Rows of the present bucket."""
        columns = _round_up(request.longest, _MULTIPLE)
        self._states = StaticStates(model.config, rows=count, columns=columns)

        def integers(*shape: int) -> Tensor:
            return torch.zeros(*shape, dtype=torch.long, device=device)

        self._tokens, self._positions, self._left = (integers(count) for _ in range(3))
        self._clock = integers(1)
        # A line of tokens for each draw of a block, the first for new prompts; the last line tells
        # which rows had logits that are not finite.
        self._lines = integers(_BLOCK + 2, count)
        self._uniform = torch.zeros(count, _BLOCK, dtype=exact_type(device), device=device)
        self._ends = self._upload(sorted(request.ends))
        self._columns = torch.arange(columns, device=device)
        self._masks = Masks(model, self._states)

    @property
    def finished(self) -> bool:
        """Return whether all answers are complete."""
        return not self._waiting and not any(self._rows)

    def advance(self) -> list[Answer]:
        """Draw a block of tokens, and return the answers that are complete."""
        self._refill()
        self._shrink()
        left = {
            row: self._request.max_new_tokens - self._drawn(row)
            for row, answer in enumerate(self._rows)
            if answer is not None
        }
        steps = min(_BLOCK, max(left.values()))
        if steps > 0:
            # Columns up to the last one that a row of the block writes.
            needed = max(self._fed(row) + min(steps, left[row]) for row in left)
            run = self._bucket(self._active, self._width(needed))
            numbers = [
                [0.0] * steps if answer is None else [answer.random.random() for _ in range(steps)]
                for answer in self._rows[: self._active]
            ]
            self._uniform[: self._active, :steps] = self._upload(numbers, self._uniform.dtype)
            self._clock.zero_()
            with self._graphs.stream():
                for _ in range(steps):
                    run()
        return self._read(steps)

    def _drawn(self, row: int) -> int:
        """Return the tokens of a row's answer, on the device or here."""
        return self._fed(row) + 1 - len(self._prompt(row))

    def _fed(self, row: int) -> int:
        """Return the tokens of a row's text that have states: all but the last one."""
        answer = self._rows[row]
        assert answer is not None
        return len(answer.text) - (row not in self._unread)

    def _prompt(self, row: int) -> Sequence[int]:
        answer = self._rows[row]
        assert answer is not None
        return self._request.prompts[answer.index]

    def _refill(self) -> None:
        """Read new prompts, where there is room, and draw the first tokens of their answers."""
        free = [row for row, answer in enumerate(self._rows) if answer is None]
        if not self._waiting or len(free) * _REFILL < len(self._rows):
            return
        answers = [self._waiting.popleft() for _ in range(min(len(free), len(self._waiting)))]
        for row, answer in zip(free, answers, strict=False):
            self._rows[row] = answer
            self._unread.add(row)
        rows = self._upload(free[: len(answers)])
        lengths = self._upload([len(answer.text) for answer in answers])
        logits = self._read_prompts(answers, rows, lengths)
        numbers = self._upload([answer.random.random() for answer in answers], self._uniform.dtype)
        tokens = draw(logits, numbers, self._request.temperature)
        left = self._after(tokens, torch.full_like(tokens, self._request.max_new_tokens))
        self._tokens.index_copy_(0, rows, tokens)
        self._left.index_copy_(0, rows, left)
        self._positions.index_copy_(0, rows, lengths.masked_fill(left == 0, 0))
        self._lines[0].index_copy_(0, rows, tokens)
        self._lines[-1].index_add_(0, rows, (~logits.amax(-1).isfinite()).long())

    def _read_prompts(self, answers: Sequence[Answer], rows: Tensor, lengths: Tensor) -> Tensor:
        """Fill the rows' states, and return the logits of the first tokens, [rows, vocabulary]."""
        width = len(answers[0].text)
        pad_id = self._request.pad_id
        padded = [[pad_id] * (width - len(answer.text)) + answer.text for answer in answers]
        positions, mask = torch.arange(width, device=self._device)[None], None
        if len(answers[-1].text) < width:
            positions = positions - width + lengths[:, None]
            mask = (positions >= 0).long()
        cache = self._states.reader(rows, lengths, width)
        logits = self._forward(self._upload(padded), mask, positions.clamp(min=0), cache)
        self._states.take(cache, rows)
        return logits

    def _forward(self, tokens: Tensor, mask: Any, positions: Tensor, cache: Any) -> Tensor:
        """Return the logits after the last token of each row, [rows, vocabulary]."""
        output = self._model(
            input_ids=tokens,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
            return_dict=True,
        )
        logits: Tensor = output.logits[:, -1]
        return logits

    def _shrink(self) -> None:
        """Move the answers into a smaller bucket, if they fit in one."""
        live = [row for row, answer in enumerate(self._rows) if answer is not None]
        active = min(rows for rows in self._row_buckets() if rows >= len(live))
        if self._waiting or active >= self._active:
            return
        sources = [row for row in live if row >= active]
        targets = [row for row in range(active) if self._rows[row] is None][: len(sources)]
        self._active = active
        if not sources:
            return
        for source, target in zip(sources, targets, strict=True):
            self._rows[target], self._rows[source] = self._rows[source], None
        there, here = self._upload(targets), self._upload(sources)
        self._states.move(here, there)
        for tensor in (self._tokens, self._positions, self._left):
            tensor.index_copy_(0, there, tensor.index_select(0, here))

    def _row_buckets(self) -> list[int]:
        """Return the rows that a bucket can have, the most first."""
        buckets = [len(self._rows)]
        while buckets[-1] > _FEWEST_ROWS:
            buckets.append(max(_FEWEST_ROWS, -(-buckets[-1] // 2)))
        return buckets

    def _width(self, needed: int) -> int:
        """Return the columns of the narrowest bucket that has as many as are needed."""
        width = self._states.columns
        while width > _FEWEST_COLUMNS:
            narrower = _round_up(-(-width // 2), _MULTIPLE)
            if narrower < needed or narrower == width:
                break
            width = narrower
        return width

    def _bucket(self, rows: int, width: int) -> GraphedPass:
        """Return the pass of a bucket."""
        if (rows, width) not in self._buckets:
            shape = Step(rows, width)
            cache = self._states.stepper(shape)

            def run() -> None:
                self._step(shape, cache)

            self._buckets[rows, width] = GraphedPass(self._graphs, run)
        return self._buckets[rows, width]

    def _step(self, shape: Step, cache: Any) -> None:
        """Feed each row its last token and draw the next; nothing here waits for the device.

        Rows that have ended read the padding token at position 0, over and over.
        """
        tokens, positions, left = (
            tensor[: shape.rows] for tensor in (self._tokens, self._positions, self._left)
        )
        window = self._states.window
        shape.slots = {self._states.columns: positions, window: positions % window}
        mask = self._masks.of(self._columns[: shape.width] <= positions[:, None])
        logits = self._forward(tokens[:, None], mask, positions[:, None], cache)
        live = left > 0
        self._lines[-1, : shape.rows].add_(live & ~logits.amax(-1).isfinite())
        numbers = self._uniform[: shape.rows].index_select(1, self._clock)[:, 0]
        drawn = draw(logits, numbers, self._request.temperature)
        drawn = drawn.masked_fill(~live, self._request.pad_id)
        self._clock.add_(1)
        self._lines[:, : shape.rows].index_copy_(0, self._clock, drawn[None])
        left.copy_(self._after(drawn, left))
        positions.copy_((positions + 1).masked_fill(left == 0, 0))
        tokens.copy_(drawn)

    def _after(self, tokens: Tensor, left: Tensor) -> Tensor:
        """Return how many tokens rows may still draw, after these of ``left``."""
        ended = (tokens[:, None] == self._ends).any(-1)
        return (left - 1).clamp(min=0).masked_fill(ended, 0)

    def _read(self, steps: int) -> list[Answer]:
        """Read a block, and free the rows of the answers that are complete.

        Raises:
            DivergedError: Logits were not finite.
        """
        lines = self._lines[:, : self._active].tolist()
        if any(lines[-1]):
            raise DivergedError(NOT_FINITE)
        complete = []
        for row, answer in enumerate(self._rows[: self._active]):
            if answer is None:
                continue
            end = len(self._prompt(row)) + self._request.max_new_tokens
            first = 0 if row in self._unread else 1
            for line in lines[first : steps + 1]:
                answer.text.append(line[row])
                answer.done = line[row] in self._request.ends or len(answer.text) == end
                if answer.done:
                    complete.append(answer)
                    self._rows[row] = None
                    break
        self._unread.clear()
        return complete

    def _upload(self, values: Any, dtype: torch.dtype = torch.long) -> Tensor:
        """Copy numbers to the device, without waiting for it."""
        pinned = self._device.type == "cuda"
        tensor = torch.tensor(values, dtype=dtype, pin_memory=pinned)
        return tensor.to(self._device, non_blocking=True)


def _round_up(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple
