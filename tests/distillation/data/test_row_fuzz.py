"""Mutated rows, columns, encodings and chat templates on the whole way from a file to tokens.

Nothing but bad input is raised, and every row that is read is used or counted in what is raised.
"""

from __future__ import annotations

import copy
import gzip
import json
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sweeper.config.data import DataConfig
from sweeper.distillation.data.chat_templates import check_default, set_defaults
from sweeper.distillation.data.conversations import Example
from sweeper.distillation.data.examples import (
    check_template,
    conversation_hash,
    fingerprint,
    prompt_hash,
    to_examples,
    tokenize,
)
from sweeper.distillation.data.left_out import left_out
from sweeper.distillation.data.misread import misread
from sweeper.distillation.data.rows import columns_of, read_rows
from sweeper.execution.worker.column_checks import unused_columns
from sweeper.foundation.errors import BadInputError
from tests.support.chat_templates import CALLED, RESULT, TOOL, tokenizer

KINDS = ("chatml", "qwen3", "gemma", "llama3_1", "mistral", "modes", "deaf")
ASKED = {"role": "user", "content": "1+1"}
SAID = {"role": "assistant", "content": "2"}
SHAPES: tuple[dict[str, Any], ...] = (
    {"prompt": "1+1", "completion": "2"},
    {"question": "1+1", "answer": "2", "system": "Be brief and kind."},
    {"prompt": [ASKED], "completion": [SAID]},
    {"messages": [ASKED, SAID]},
    {"messages": [{"role": "system", "content": "Be brief."}, ASKED, SAID, ASKED, SAID]},
    {"messages": [ASKED, {**SAID, "reasoning_content": "easy"}], "tools": [TOOL]},
    {"messages": [ASKED, CALLED, RESULT, SAID], "tools": [TOOL]},
    {"conversations": [{"from": "human", "value": "1+1"}, {"from": "gpt", "value": "2"}]},
    {"instruction": "add", "input": "1 1", "output": "2"},
    {"prompts": "1+1"},
)
VALUES: tuple[Any, ...] = (
    *(None, "", " ", 3, -1.5, float("nan"), True, 10**30),
    *([], {}, [None], [[]], [{}], ["x"], {"a": {"b": []}}, [[ASKED, SAID]]),
    *("user", "assistant", "system", "tool", "human", "developer", "function"),
    *("\x00", "\u2028", "\ufeff", "🙂", "<|im_start|>", "<|im_end|>", "</s>", "{{ x }}", "<think>"),
    *([{"role": "user"}], {"role": "assistant", "content": None}, json.dumps([ASKED, SAID])),
    *("a " * 400, [SAID, ASKED], {"function": {"name": "f", "arguments": "{"}}),
)
NAMES = (
    *("prompt", "messages", "role", "content", "weight", "tools", "x", "", "input", "train"),
    *("system", "tool_calls", "name", "thinking", "chat_template_kwargs", "from", "completion"),
)
OPTIONAL = ("tools", "system", "input")
BYTES = (b"", b"\n", b'"', b"{", b"}", b",", b"\xff", b"\xe9", b"\\ud800", b"\0", b"\xef\xbb\xbf")
PIECES = ("", "{%", "%}", "{{", "}}", " if ", "messages", "[0]", "['content']", "| trim", "x", "\n")


def mutated(value: Any, draw: random.Random) -> Any:
    """Return a value with one change somewhere inside it."""
    if isinstance(value, dict) and value and draw.random() < 0.9:
        name = draw.choice(list(value))
        kind = draw.randrange(6)
        if kind == 0:
            return {key: inner for key, inner in value.items() if key != name}
        if kind == 1:
            return {**value, draw.choice(NAMES): draw.choice(VALUES)}
        return {**value, name: mutated(value[name], draw)}
    if isinstance(value, list) and value and draw.random() < 0.8:
        index = draw.randrange(len(value))
        kind = draw.randrange(5)
        if kind == 0:
            return value[:index] + value[index + 1 :]
        if kind == 1:
            return [*value, value[index]]
        return [*value[:index], mutated(value[index], draw), *value[index + 1 :]]
    return draw.choice(VALUES)


def some_rows(draw: random.Random) -> list[dict[str, Any]]:
    """Return rows of one shape, some of them mutated."""
    shape = draw.choice(SHAPES)
    rows = []
    for _ in range(draw.randrange(2, 6)):
        row: Any = copy.deepcopy(shape)
        for _ in range(draw.choice((0, 0, 0, 0, 0, 0, 0, 1, 1, 2))):
            row = mutated(row, draw)
        rows.append(row if isinstance(row, dict) else {"prompt": row})
    return rows


def written(rows: list[dict[str, Any]], draw: random.Random) -> tuple[str, bytes]:
    """Return a file of rows in some format, now and then with bytes that are wrong."""
    ascii_only = draw.random() < 0.5
    text = "".join(json.dumps(row, ensure_ascii=ascii_only) + "\n" for row in rows)
    name, content = draw.choice((("rows.jsonl", text), ("rows.json", json.dumps(rows, indent=1))))
    raw = bytearray(content.encode())
    for _ in range(draw.choice((0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 2))):
        place = draw.randrange(len(raw))
        raw[place : place + draw.randrange(3)] = draw.choice(BYTES)
    if draw.random() < 0.03:
        raw = bytearray(content.encode("utf-16"))
    if draw.random() < 0.1:
        return f"{name}.gz", gzip.compress(bytes(raw))
    return name, bytes(raw)


def a_tokenizer(draw: random.Random) -> Any:
    """Return a tokenizer with a template, now and then a mutated one."""
    made = copy.deepcopy(tokenizer(draw.choice(KINDS)))
    text = made.chat_template
    for _ in range(draw.choice((0, 0, 0, 1))):
        first, end = sorted(draw.randrange(len(text)) for _ in range(2))
        end = min(end, first + 40)
        text = text[:first] + draw.choice(PIECES) + text[end:]
    made.chat_template = text
    return made


def counted(error: BadInputError) -> tuple[int, int, int]:
    """Return the first row that an error names, how many rows it counts, and of how many."""
    told = re.search(
        r"\brow (\d+) of .*; ([\d,]+) of ([\d,]+) rows cannot be used$", str(error), re.S
    )
    assert told, str(error)
    first, count, total = (int(group.replace(",", "")) for group in told.groups())
    return first, count, total


def refusals(items: list[Any], use: Callable[[list[Any]], object]) -> list[int]:
    """Return the numbers of the items that are refused when each is used alone."""
    refused = []
    for number, item in enumerate(items, start=1):
        try:
            use([item])
        except BadInputError:
            refused.append(number)
    return refused


def check_refusal(error: BadInputError, refused: list[int], total: int) -> None:
    """Check that an error names the first of the refused rows, and counts all of them."""
    first, count, of = counted(error)
    assert (first, count, of) == (refused[0], len(refused), total), str(error)


def whole_way(folder: Path, draw: random.Random) -> str:
    """Bring rows from a file to tokens; return where they were refused, or ``used``."""
    rows = some_rows(draw)
    name, content = written(rows, draw)
    path = folder / name
    path.write_bytes(content)
    data = DataConfig.model_validate(
        {"train": {"path": name}, "assistant_turns": draw.choice(("last", "all"))}
    )
    try:
        read, places = read_rows(data, (str(path),))
    except BadInputError as error:
        assert name in str(error) and "\n" not in str(error)
        return "file"
    try:
        columns = columns_of(data, read)
        examples = to_examples(read, columns, data, places)
    except BadInputError as error:
        assert error.key[:2] == ("data", "train")
        if "cannot be used" not in str(error):
            return "columns"

        def read_alone(one: list[dict[str, Any]]) -> object:
            # A row may lack these columns, if others have them.
            lacking = [key for key in OPTIONAL if getattr(columns, key) not in one[0]]
            return to_examples(one, columns.model_copy(update=dict.fromkeys(lacking)), data)

        check_refusal(error, refusals(read, read_alone), len(read))
        return "rows"
    assert len(examples) == len(read)
    assert len(fingerprint(examples)) == 64
    list(unused_columns(read, columns, examples, sorted({key for row in read for key in row})))
    for example in examples:
        assert conversation_hash(example)
        assert all(prompt_hash(question) for question in example.questions)
    return to_tokens(examples, draw)


def to_tokens(examples: list[Example], draw: random.Random) -> str:
    """Tokenize examples in some template, with everything that looks at them."""
    made, references = a_tokenizer(draw), draw.random() < 0.7
    try:
        check_default(made)
        set_defaults(made, {}, "2024-07-26")
        check_template(made, None, answers=references)
    except BadInputError:
        return "template"
    try:
        tokenized = tokenize(examples, made, 1000, references=references)
    except BadInputError as error:
        if "cannot be used" not in str(error):
            assert error.key == ("training", "max_length")
            return "lengths"

        def alone(one: list[Example]) -> object:
            return tokenize(one, made, 100_000, references=references)

        check_refusal(error, refusals(examples, alone), len(examples))
        return "tokens"
    dropped = [index for index in range(len(examples)) if index not in tokenized.kept]
    note = next((note for note in tokenized.notes if "were dropped" in note), "0")
    assert len(dropped) == int(note.split()[0].replace(",", ""))
    assert len(tokenized.kept) == len(tokenized.sequences)
    misread(examples, made, chat=True)
    try:
        left_out(examples, made, references=references)
    except BadInputError as error:
        counted(error)
        return "left out"
    return "used"


def fuzzed(folder: Path, seed: int, times: int) -> dict[str, int]:
    draw = random.Random(seed)
    ends: dict[str, int] = {}
    for _ in range(times):
        end = whole_way(folder, draw)
        ends[end] = ends.get(end, 0) + 1
    return ends


def test_every_row_is_used_or_counted(tmp_path: Path) -> None:
    ends = fuzzed(tmp_path, 0, 250)
    assert {"file", "rows", "tokens", "template", "used"} <= set(ends)
    assert ends["used"] > 40


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(1, 11))
def test_every_row_of_thousands_is_used_or_counted(tmp_path: Path, seed: int) -> None:
    fuzzed(tmp_path, seed, 3000)
