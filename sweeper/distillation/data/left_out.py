"""What a chat template leaves out of the data's messages, or changes in them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from transformers import PreTrainedTokenizerBase

from sweeper.distillation.data.calls import Message
from sweeper.distillation.data.chat_templates import render, template_variables
from sweeper.distillation.data.conversations import TOOL_ROLES, Example, is_system, texts
from sweeper.distillation.data.rows import RefusedRows
from sweeper.foundation.errors import BadInputError

_PLAIN = {"role", "content"}
_PROBE = "\ue000"
"""A character of no text's own."""
_THOUGHTS = ("reasoning_content", "reasoning", "thinking")
_THINKS = re.compile(
    r"\s*(?:[<\[◁]\W*(?:\w+[:_])?(?:think|thought|reason)|here is my thought)", re.I
)
"""Start of an answer whose own text has thoughts."""


def left_out(
    examples: Sequence[Example],
    tokenizer: PreTrainedTokenizerBase,
    system_prompt: str | None = None,
    *,
    references: bool = True,
    whose: str = "the",
) -> tuple[str, ...]:
    """Return sentences, with counts, about what the template leaves out of the messages.

    Each part is taken out of a conversation: if its text stays the same, the template has left the
    part out. Without ``references`` the answers, which nothing is trained on, are not looked at.
    ``whose`` says whose template it is.

    Raises:
        BadInputError: The template leaves out the content, a call of a tool or a call's arguments
            of a message, or changes the text of an answer.
    """
    lost: Counter[str] = Counter()
    first: dict[str, str] = {}
    refused = RefusedRows()
    written = _squeezed(str(tokenizer.chat_template))
    for number, example in enumerate(examples, start=1):
        answer = example.answer if references else None
        turns = [*example.messages, *([answer] if answer else [])]
        row = _Row(example.where(number), example, turns, tokenizer, whose)
        if (text := row.text()) is None:
            continue
        with refused.noting(row.place):
            for what in _lost(row, text, answer, system_prompt, written):
                lost[what] += 1
                first.setdefault(what, row.place)
    refused.raise_if_any(len(examples))
    return tuple(
        f"{whose} chat template {what.replace('{}', f'{count:,}', 1)}; first: {first[what]}"
        for what, count in lost.items()
    )


def _lost(
    row: _Row, text: str, answer: Message | None, system_prompt: str | None, written: str
) -> Iterator[str]:
    """Yield what the template, ``written`` without white space, leaves out of a row or changes."""
    example, turns = row.example, row.turns
    known = template_variables(row.tokenizer)
    for name in example.options:
        if name not in known:
            yield f"has no variable {name!r}, which {{}} rows set"
    if system_prompt and example.messages[0] != {"role": "system", "content": system_prompt}:
        yield "has the system message of {} rows, not data.system_prompt"
    yield from _lost_tools(row, text)
    if answer:
        yield from _idle_thoughts(row, answer, [name for name in sorted(known) if "think" in name])
    trained = {*example.earlier, len(turns) - 1} if answer else set()
    given = _squeezed("".join(texts([turns, example.tools, example.options])))
    for index, turn in enumerate(turns):
        yield from _lost_fields(row, text, index)
        if bare := _squeezed(turn["content"]):
            elsewhere = given.count(bare) + written.count(bare) > 1
            yield from _lost_content(row, text, index, index in trained, elsewhere)


@dataclass(frozen=True)
class _Row:
    """A row's conversation, its answer included, and the template that writes it."""

    place: str
    example: Example
    turns: list[Message]
    tokenizer: PreTrainedTokenizerBase
    whose: str

    def text(self, **changes: Any) -> str | None:
        """Return the text with changed parts; None if the template refuses it."""
        given = {"turns": self.turns, "tools": self.example.tools, **changes}
        given["options"] = {**self.example.options, **changes.get("options", {})}
        try:
            return render(given.pop("turns"), self.tokenizer, **given)
        except BadInputError:
            return None

    def with_turn(self, index: int, turn: Message) -> str | None:
        """Return the text with another message in one's place."""
        return self.text(turns=[*self.turns[:index], turn, *self.turns[index + 1 :]])

    def refuse(self, index: int, what: str) -> NoReturn:
        """Raise the error for a message that is not rendered whole."""
        turn = self.turns[index]
        raise BadInputError(
            f"expected messages that {self.whose} chat template renders, but it {what} of message"
            f" {index + 1} ({turn['role']}) of {self.place}: {str(turn['content'])[:40]!r};"
            " use a model whose template has a place for it, or rows without"
        )


def _lost_tools(row: _Row, text: str) -> Iterator[str]:
    tools = row.example.tools or []
    names = [str(tool["function"].get("name", "")) for tool in tools]
    if tools and row.text(tools=None) == text:
        yield "leaves out the tools of {} rows"
    elif any(name not in text for name in names):
        yield "leaves out some tools of {} rows"


def _idle_thoughts(row: _Row, answer: Message, switches: Sequence[str]) -> Iterator[str]:
    """Yield the argument by which a template asks for thoughts that the answer does not have."""
    if any(map(answer.get, _THOUGHTS)) or _THINKS.match(answer["content"]):
        return
    messages = row.example.messages
    # Thoughts of earlier turns, which such arguments may keep, are another matter.
    asked = [turn for turn in messages if is_system(turn)]
    asked += [turn for turn in messages if turn["role"] == "user"][-1:]
    for name in switches:
        on, off = (row.text(turns=asked, options=o, asks=True) for o in ({}, {name: False}))
        if None not in (on, off) and on != off:
            yield (
                "asks for thoughts in {} rows whose references have none;"
                f" write data.chat_template_kwargs: {{{name}: false}}"
            )


def _lost_fields(row: _Row, text: str, index: int) -> Iterator[str]:
    """Yield what is lost of a message next to its content: calls, reasoning, names."""
    turn = row.turns[index]
    for key in sorted(turn.keys() - _PLAIN):
        rest = {k: v for k, v in turn.items() if k != key}
        if turn[key] not in ("", [], {}) and row.with_turn(index, rest) == text:
            if key == "tool_calls":
                row.refuse(index, "leaves out the tool_calls")
            yield f"leaves out {key} of {{}} {turn['role']} messages"
    calls = turn.get("tool_calls", [])
    for position, call in enumerate(calls):
        function = call["function"]

        def without(*changed: Message, at: int = position) -> bool:
            given = [*calls[:at], *changed, *calls[at + 1 :]]
            return row.with_turn(index, {**turn, "tool_calls": given}) == text

        if len(calls) > 1 and without():
            row.refuse(index, f"leaves out call {position + 1} of the tool_calls")
        if function["arguments"] and without({**call, "function": {**function, "arguments": {}}}):
            row.refuse(index, f"leaves out the arguments of call {position + 1}")
        for key in sorted(function.keys() - {"name", "arguments"}):
            rest = {k: v for k, v in function.items() if k != key}
            if without({**call, "function": rest}):
                yield f"leaves out {key} of {{}} calls of tools"


def _lost_content(
    row: _Row, text: str, index: int, trained: bool, elsewhere: bool
) -> Iterator[str]:
    """Yield how a message's content is changed.

    A text that is also ``elsewhere``, in the row or in the template, has to disappear with the
    content.
    """
    turn, squeezed = row.turns[index], _squeezed(text)
    content, bare = turn["content"], _squeezed(turn["content"])
    probed = None
    if elsewhere or bare not in squeezed:
        probed = row.with_turn(index, {**turn, "content": _PROBE})
    others = probed or "" if elsewhere else ""
    if squeezed.count(bare) <= _squeezed(others).count(bare):
        if probed == text:
            row.refuse(index, "leaves out the content")
        if trained:
            row.refuse(index, "changes the text")
        # What tools return may be written as JSON.
        if turn["role"] not in TOOL_ROLES:
            yield f"changes the content of {{}} {turn['role']} messages"
    elif trained and text.count(content) <= others.count(content):
        yield "changes the white space of {} answers"


def check_stock(examples: Sequence[Example]) -> None:
    """Check that conversations are such as TRL's own trainers render.

    Raises:
        BadInputError: They have more than roles and contents.
    """
    for number, example in enumerate(examples, start=1):
        further = [*example.messages, {**(example.answer or {}), "role": "assistant"}]
        if example.tools or example.options or any(turn.keys() - _PLAIN for turn in further):
            raise BadInputError(
                f"expected engine: sweeper, because {example.where(number)} has tools, calls of"
                " tools, reasoning or names, which TRL's own trainers leave out",
                ("training", "engine"),
            )


def _squeezed(text: str) -> str:
    return "".join(text.split())
