"""The columns of a data set that hold the prompts and their answers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from pydantic import model_validator

from sweeper.config.base import Problems, Strict


class ColumnsConfig(Strict):
    """Which columns of the rows hold what."""

    prompt: str | None = None
    """The prompt's column."""
    input: str | None = None
    """The column of a text that comes after the prompt and a blank line, in rows that have one:
    `input` next to `instruction` (Alpaca)."""
    completion: str | None = None
    """The reference answer's column; without one, only methods that need no references can run."""
    messages: str | None = None
    """A column of chat messages, the assistant's answer last; excludes the other two. Turns have
    `role` and `content`, or `from` and `value` (ShareGPT)."""
    tools: str | None = None
    """The column of the functions that a row's model may call; `tools` if there is one."""
    system: str | None = None
    """The column of a row's system message; next to `messages`, `system` if there is one."""

    @model_validator(mode="after")
    def _check(self) -> ColumnsConfig:
        problems = Problems()
        if (self.prompt is None) == (self.messages is None):
            problems.add((), "expected either prompt (and completion) or messages")
        elif self.messages is not None and self.completion is not None:
            problems.add(("completion",), "expected no completion next to messages")
        if self.messages is not None and self.input is not None:
            problems.add(("input",), "expected no input next to messages")
        problems.raise_if_any()
        return self


GUESSED_COLUMNS = (
    ColumnsConfig(messages="messages"),
    ColumnsConfig(messages="conversations"),
    ColumnsConfig(prompt="prompt", completion="completion"),
    ColumnsConfig(prompt="prompt", completion="response"),
    ColumnsConfig(prompt="question", completion="answer"),
    ColumnsConfig(prompt="question", completion="response"),
    ColumnsConfig(prompt="query", completion="response"),
    ColumnsConfig(prompt="problem", completion="solution"),
    ColumnsConfig(prompt="instruction", input="input", completion="output"),
    ColumnsConfig(prompt="instruction", input="input", completion="response"),
    ColumnsConfig(prompt="instruction", completion="output"),
    ColumnsConfig(prompt="instruction", completion="response"),
    ColumnsConfig(prompt="prompt"),
    ColumnsConfig(prompt="prompts"),
)
"""Columns that are tried, in this order, when a study names none."""


def guess_columns(names: Collection[str]) -> ColumnsConfig | None:
    """Return what columns of these names hold; None if no name says so."""
    for columns in GUESSED_COLUMNS:
        wanted = [name for name in columns.model_dump().values() if name is not None]
        if all(name in names for name in wanted):
            return columns
    return None


def guess_columns_of(rows: Sequence[Mapping[str, Any]]) -> ColumnsConfig | None:
    """Return what the columns of rows hold, which may differ in theirs; None if no name says so.

    A column counts that some row has something in. The prompts' has to be filled in half of them.
    """
    filled = Counter(name for row in rows for name, value in row.items() if has_content(value))
    for columns in GUESSED_COLUMNS:
        first = str(columns.messages or columns.prompt)
        wanted = [name for name in columns.model_dump().values() if name is not None]
        if 2 * filled[first] >= len(rows) and all(filled[name] for name in wanted):
            return columns
    return guess_columns({name for row in rows for name in row})


def has_content(value: object) -> bool:
    """Return whether a cell holds something."""
    return value is not None and value != "" and value != [] and value != {}


def with_input(prompt: str, further: str | None) -> str:
    """Return a prompt with the text of the column ``input``, if a row has one."""
    return f"{prompt}\n\n{further}" if further and further.strip() else prompt


def unknown_columns(source: str, rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the message for rows whose columns have unfamiliar names."""
    names = sorted({name for row in rows for name in row})
    chats = [name for name in names if any(_is_chat(row.get(name)) for row in rows)]
    advice = "".join(
        f"; {name} holds messages: write columns: {{messages: {name}}}" for name in chats[:1]
    )
    if "text" in names:
        advice += "; if text holds whole texts, divide each into a prompt and a completion"
    return (
        "expected columns: {prompt: …, completion: …} or {messages: …}, because none of the columns"
        f" of {source} has a name that says so: {', '.join(names)}{advice}"
    )


def _is_chat(value: object) -> bool:
    if not isinstance(value, list) or not value or not isinstance(value[0], dict):
        return False
    return {"role", "content"} <= value[0].keys() or {"from", "value"} <= value[0].keys()
