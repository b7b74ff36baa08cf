"""Tokenizing in batches, for code that is written row by row.

A fast tokenizer takes a list of texts to all cores at once, and costs little more for the list than
for one text. What is done with a row's tokens may depend on other tokens of the same row, so each
row is a generator: it yields a text, and is sent its tokens.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, TypeVar

from transformers import PreTrainedTokenizerBase

from sweeper.foundation.errors import BadInputError

Result = TypeVar("Result")
Steps = Generator[str, list[int], Result]
"""Work on a row: yields texts, is sent the tokens of each, and returns a result."""

_ROWS = 256
"""Rows that advance together; what the tokenizer makes of their texts is in memory at a time."""


def token_ids(texts: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> list[list[int]]:
    """Return the tokens of texts, without any that a tokenizer puts around them."""
    found: list[list[int]] = []
    for start in range(0, len(texts), _ROWS):
        some = list(texts[start : start + _ROWS])
        found += map(list, tokenizer(some, add_special_tokens=False)["input_ids"])
    return found


def one_by_one(steps: Steps[Result], tokenizer: PreTrainedTokenizerBase) -> Result:
    """Return the result of one row's steps."""
    tokens: Any = None
    while True:
        try:
            text = steps.send(tokens)
        except StopIteration as done:
            result: Result = done.value
            return result
        tokens = list(tokenizer(text, add_special_tokens=False)["input_ids"])


def in_batches(
    rows: Iterable[Steps[Result]], tokenizer: PreTrainedTokenizerBase
) -> Iterator[Result | BadInputError | RecursionError]:
    """Yield the results of rows in their order; of a row that cannot be used, its error."""
    waiting = iter(rows)
    while chunk := list(islice(waiting, _ROWS)):
        yield from _together(chunk, tokenizer)


def _together(
    rows: list[Steps[Result]], tokenizer: PreTrainedTokenizerBase
) -> list[Result | BadInputError | RecursionError]:
    """Advance rows together, each by one text at a time."""
    results: dict[int, Any] = {}
    tokens: dict[int, Any] = dict.fromkeys(range(len(rows)))
    while tokens:
        texts: dict[int, str] = {}
        for index, given in tokens.items():
            try:
                texts[index] = rows[index].send(given)
            except StopIteration as done:
                results[index] = done.value
            except (BadInputError, RecursionError) as error:
                results[index] = error
        ids = token_ids(list(texts.values()), tokenizer)
        tokens = dict(zip(texts, ids, strict=True))
    return [results[index] for index in range(len(rows))]
