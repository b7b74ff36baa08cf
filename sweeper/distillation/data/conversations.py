"""Rows as conversations: messages, tools and arguments of the template, in transformers' form.

Read are columns of text, chat messages (OpenAI's and TRL's ``role`` and ``content``, ShareGPT's
``from`` and ``value``) and TRL's conversational ``prompt`` and ``completion``. What a message has
next to its role and content (calls of tools, reasoning, names) stays with it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sweeper.config.columns import ColumnsConfig, with_input
from sweeper.distillation.data.calls import (
    Message,
    parsed,
    read_call,
    read_options,
    read_tools,
    shown,
)
from sweeper.foundation.data_files import Place
from sweeper.foundation.errors import BadInputError

TOOL_ROLES = frozenset({"tool", "ipython", "observation"})
"""Roles of what a tool returned; OpenAI's former ``function`` is read as ``tool``."""
_ASKING = TOOL_ROLES | {"user"}
"""Roles that an answer may follow."""
_SYSTEM = ("system", "developer")
_SHAREGPT = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "assistant": "assistant",
    "model": "assistant",
    "system": "system",
    "tool": "tool",
    "observation": "tool",
    "function_response": "tool",
    "function_call": "function_call",
}
_ALIASES = {
    **dict.fromkeys(("human", "person", "client"), "user"),
    **dict.fromkeys(("gpt", "chatgpt", "model", "bot", "chatbot", "ai", "llm"), "assistant"),
    **{role: role for role in ("user", "assistant", "tool", *_SYSTEM)},
}
"""Names, in lower case, that data give roles which chat templates have other names for."""
_TURNS_AS_TEXT = re.compile(r"""\s*\[\s*\{\s*['"](?:role|content|from|value)['"]\s*:""")
"""Start of a text that is a list of messages, as JSON or as Python writes it."""
_WITHOUT_CONTENT = ("tool_calls", "reasoning_content", "reasoning", "thinking")
"""Keys next to which an assistant's content may be null."""
_MASKS = ("weight", "train", "training", "train_detail", "loss")
"""Keys by which data mark the answers to train: OpenAI's, Axolotl's, ms-swift's."""


@dataclass(frozen=True)
class Conversation:
    """A row's messages."""

    messages: tuple[Message, ...]
    completion_start: int = 0
    """Index from which on answers may be trained: TRL's ``prompt`` comes before it."""
    tools: list[Message] | None = None
    """JSON schemas of the functions that the model may call."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """The row's own arguments of the chat template."""
    masked: frozenset[int] = frozenset()
    """Indices, from the end, of messages that the row marks not to be trained."""


@dataclass(frozen=True)
class Example:
    """One prompt, as chat messages, with its reference answer if there is one."""

    messages: tuple[Message, ...]
    completion: str | None
    """The answer's text: empty if it only calls tools; None if there is no answer."""
    answer_fields: Mapping[str, Any] = field(default_factory=dict)
    """What else the answer has: calls of tools, reasoning."""
    earlier: tuple[int, ...] = ()
    """Indices of the messages before it that are trained answers too."""
    tools: list[Message] | None = None
    """JSON schemas of the functions that the model may call."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """The row's own arguments of the chat template."""
    place: Place | None = field(default=None, compare=False)
    """Where the row stands; None if it is of no file."""

    @property
    def prompt(self) -> str:
        """Last user message, which a leak check compares."""
        return self._question(len(self.messages))

    @property
    def questions(self) -> list[str]:
        """Every message of the user's, and what the answer follows."""
        asked = [str(turn["content"]) for turn in self.messages if turn["role"] == "user"]
        return list(dict.fromkeys([*asked, self.prompt]))

    def where(self, number: int) -> str:
        """Return the row's place in words; without one, its ``number``."""
        return str(self.place or f"row {number}")

    @property
    def answer(self) -> Message | None:
        """Reference answer as a message."""
        if self.completion is None:
            return None
        return {"role": "assistant", "content": self.completion, **self.answer_fields}

    def _question(self, end: int) -> str:
        asked = (turn for turn in reversed(self.messages[:end]) if turn["role"] == "user")
        return str(next(asked, self.messages[end - 1])["content"])


def read_conversation(row: Mapping[str, Any], columns: ColumnsConfig, place: str) -> Conversation:
    """Return a row's conversation.

    Raises:
        BadInputError: A column is missing, or a message, a call of a tool or a tool is not as it
            should be.
    """
    prompt, answer = str(columns.prompt), columns.completion
    text = columns.messages is None and not isinstance(row.get(prompt), list)
    text |= columns.input is not None
    start = 0
    if columns.messages is not None:
        given = _messages(cell(row, columns.messages, list, place), place)
    elif text:
        extra = columns.input
        further = cell(row, extra, str, place) if extra and not _is_blank(row.get(extra)) else None
        asked = with_input(_text_cell(row, prompt, place), further)
        given, start = [{"role": "user", "content": asked}], 1
        if answer is not None:
            given.append({"role": "assistant", "content": _text_cell(row, answer, place)})
    else:
        given = _messages(cell(row, prompt, list, place), place)
        start = len(given)
        if answer is not None:
            given += _messages(cell(row, answer, list, place), place)
            if given[-1]["role"] != "assistant":
                message = f"expected an assistant message at the end of {answer!r}, {place}"
                raise BadInputError(message)
    masked = frozenset(
        index - len(given) for index, turn in enumerate(given) if _take_mask(turn, place)
    )
    column = columns.system or ("" if text else "system")
    if not _is_blank(row.get(column)):
        system = cell(row, column, str, place)
        if not is_system(given[0]):
            given, start = [{"role": "system", "content": system}, *given], start + 1
        elif given[0]["content"].strip() != system.strip():
            raise BadInputError(
                f"expected one system message in {place}, found {shown(given[0]['content'])} among"
                f" its turns and {shown(system)} in column {column!r}"
            )
    tools = read_tools(row.get(columns.tools or ("" if text else "tools")), place)
    options = read_options(row.get("chat_template_kwargs"), place)
    return Conversation(tuple(given), start, tools, options, masked)


def may_ask(turn: Message) -> bool:
    """Return whether an answer may follow a turn."""
    return turn["role"] in _ASKING


def is_system(turn: Message) -> bool:
    """Return whether a turn is a system message."""
    return turn["role"] in _SYSTEM


def texts(value: Any) -> Iterator[str]:
    """Yield every text in a message, or in another value of JSON's kinds: keys and numbers too."""
    if isinstance(value, Mapping):
        value = [part for item in value.items() for part in item]
    if isinstance(value, list | tuple):
        for part in value:
            yield from texts(part)
    else:
        yield value if isinstance(value, str) else json.dumps(value, default=str)


def cell(row: Mapping[str, Any], column: str, kind: type, place: str) -> Any:
    """Return a row's value in a column.

    Raises:
        BadInputError: There is no such column, or its value is of another kind.
    """
    if column not in row:
        columns = ", ".join(sorted(row))
        raise BadInputError(f"no column {column!r} in {place}, only {columns}")
    value = row[column]
    if kind is list and isinstance(value, str) and value.strip():
        value = parsed(value, list, f"column {column!r} of {place}")
    if not isinstance(value, kind) or _is_blank(value):
        expected = "text" if kind is str else "a list of messages"
        number = isinstance(value, int | float) and kind is str
        raise BadInputError(
            f"expected {expected} in column {column!r}, {place}, found {shown(value)}"
            + (" (write numbers in quotes)" if number else "")
        )
    return value


def _is_blank(value: Any) -> bool:
    return not (str(value).strip() if isinstance(value, str) else value)


def _text_cell(row: Mapping[str, Any], column: str, place: str) -> str:
    text = str(cell(row, column, str, place))
    if _TURNS_AS_TEXT.match(text):
        raise BadInputError(
            f"expected text in column {column!r}, {place}, found chat messages written as text:"
            f" write them as lists in a json, jsonl or parquet file, or as JSON in a column that"
            " data.train.columns.messages names"
        )
    return text


def _messages(turns: Sequence[Any], place: str) -> list[Message]:
    return [_message(turn, place) for turn in turns]


def _message(turn: Any, place: str) -> Message:
    if isinstance(turn, dict) and "from" in turn and "role" not in turn:
        turn = _from_sharegpt(turn, place)
    if not isinstance(turn, dict) or not isinstance(turn.get("role"), str):
        raise BadInputError(
            f"expected messages with role and content in {place}, found {shown(turn)}"
        )
    message = {key: value for key, value in turn.items() if value is not None}
    if message["role"] == "function":
        message["role"] = "tool"
    usual = _ALIASES.get(message["role"].strip().lower(), message["role"])
    if usual != message["role"]:
        raise BadInputError(
            f"expected the role {usual!r} in {place}, found {message['role']!r}: rename it, or name"
            " the keys of such messages from and value (ShareGPT)"
        )
    if message.get("function_call") and not message.get("tool_calls"):
        message["tool_calls"] = [parsed(message.pop("function_call"), dict, place)]
    calls = message.get("tool_calls") or []
    if calls := [read_call(call, place) for call in parsed(calls, list, place)]:
        message["tool_calls"] = calls
    else:
        message.pop("tool_calls", None)
    message["content"] = _content(message, place)
    return message


def _take_mask(turn: Message, place: str) -> bool:
    """Take the marks out of a turn that say if it is trained; return True if it is not.

    Raises:
        BadInputError: Only a part of it is, or its weight is a fraction.
    """
    masked = False
    for key in _MASKS:
        if key not in turn:
            continue
        if turn[key] not in (0, 1):
            raise BadInputError(
                f"expected true or false (1 or 0) as {key} of a message in {place}, because an"
                f" answer is trained whole or not at all, found {shown(turn[key])}"
            )
        # Other turns are never trained: a mark that asks for it stays, and is counted as left out.
        if not turn[key] or turn["role"] == "assistant":
            masked |= not turn.pop(key)
    return masked


def _content(message: Message, place: str) -> str:
    content = message.get("content")
    if isinstance(content, list) and len(content) == 1 and isinstance(content[0], dict):
        content = content[0].get("text") if "text" in str(content[0].get("type", "text")) else None
    may_lack = message["role"] == "assistant" and any(map(message.get, _WITHOUT_CONTENT))
    if content is None and may_lack:
        return ""
    if isinstance(content, str):
        return content
    raise BadInputError(
        f"expected messages with role and content in {place}, the content a text, a list of one"
        " text (templates join several in ways of their own), or null next to tool_calls, found"
        f" {shown(message)}"
    )


def _from_sharegpt(turn: Message, place: str) -> Message:
    """Return a turn of ShareGPT's with role and content."""
    role = _SHAREGPT.get(str(turn["from"]))
    if role is None or not isinstance(turn.get("value"), str):
        raise BadInputError(
            f"expected turns with value, a text, and from, one of {', '.join(_SHAREGPT)}, in"
            f" {place}, found {shown(turn)}"
        )
    rest = {key: value for key, value in turn.items() if key not in ("from", "value")}
    if role != "function_call":
        return {"role": role, "content": turn["value"], **rest}
    calls = parsed(turn["value"], object, place)
    calls = calls if isinstance(calls, list) else [calls]
    return {"role": "assistant", "content": None, "tool_calls": calls, **rest}
