"""What a chat template leaves out of the data's messages, or changes in them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase

from sweeper.distillation.data.chat_templates import render, template_variables
from sweeper.distillation.data.conversations import TOOL_ROLES, Example, Message
from sweeper.foundation.errors import BadInputError

_PLAIN = {"role", "content"}
_PROBE = "\N{BLACK STAR} probe"


def left_out(
    examples: Sequence[Example],
    tokenizer: PreTrainedTokenizerBase,
    system_prompt: str | None = None,
    *,
    references: bool = True,
) -> tuple[str, ...]:
    """Return sentences, with counts, about what the template leaves out of the messages.

    Each part is taken out of a conversation: if its text stays the same, the template has left the
    part out. Without ``references`` the answers, which nothing is trained on, are not looked at.

    Raises:
        BadInputError: The template leaves out the content or the calls of tools of a message, or
            changes the text of an answer.
    """
    lost: Counter[str] = Counter()
    known = template_variables(tokenizer)
    for number, example in enumerate(examples, start=1):
        answer = example.answer if references else None
        turns = [*example.messages, *([answer] if answer else [])]
        text = _text(turns, example, tokenizer)
        if text is None:
            continue
        lost["leaves out the tools of {} rows"] += bool(
            example.tools and text == _text(turns, example, tokenizer, tools=None)
        )
        for name in sorted(example.options.keys() - known):
            lost[f"has no variable {name!r}, which {{}} rows set"] += 1
        lost["has the system message of {} rows, not data.system_prompt"] += bool(
            system_prompt and example.messages[0] != {"role": "system", "content": system_prompt}
        )
        squeezed = _squeezed(text)
        for index, turn in enumerate(turns):
            role, content = turn["role"], str(turn["content"])
            for key in sorted(turn.keys() - _PLAIN):
                rest = {k: v for k, v in turn.items() if k != key}
                if turn[key] and _text(_with(turns, index, rest), example, tokenizer) == text:
                    if key == "tool_calls":
                        _refuse(number, index, turn, "leaves out the tool_calls")
                    lost[f"leaves out {key} of {{}} {role} messages"] += 1
            if _squeezed(content) not in squeezed:
                if turn is answer or index in example.earlier:
                    _refuse(number, index, turn, "changes the text")
                probed = _with(turns, index, {**turn, "content": _PROBE})
                if _text(probed, example, tokenizer) == text:
                    _refuse(number, index, turn, "leaves out the content")
                # What tools return may be written as JSON.
                lost[f"changes the content of {{}} {role} messages"] += role not in TOOL_ROLES
            elif turn is answer and content not in text:
                lost["strips white space around {} answers"] += content != content.strip()
    return tuple(
        f"the chat template {what.format(f'{count:,}')}" for what, count in lost.items() if count
    )


def check_stock(examples: Sequence[Example]) -> None:
    """Check that conversations are such as TRL's own trainers render.

    Raises:
        BadInputError: They have more than roles and contents.
    """
    for number, example in enumerate(examples, start=1):
        further = [*example.messages, {**(example.answer or {}), "role": "assistant"}]
        if example.tools or example.options or any(turn.keys() - _PLAIN for turn in further):
            raise BadInputError(
                "expected engine: sweeper, because row"
                f" {number} has tools, calls of tools, reasoning or names, which TRL's own trainers"
                " leave out",
                ("training", "engine"),
            )


def _with(turns: Sequence[Message], index: int, turn: Message) -> list[Message]:
    return [*turns[:index], turn, *turns[index + 1 :]]


def _text(
    turns: Sequence[Message],
    example: Example,
    tokenizer: PreTrainedTokenizerBase,
    **changes: Any,
) -> str | None:
    """Return a conversation as text; None if the template refuses it."""
    given = {"tools": example.tools, "options": example.options, **changes}
    try:
        return render(list(turns), tokenizer, **given)
    except BadInputError:
        return None


def _squeezed(text: str | None) -> str:
    return "".join((text or "").split())


def _refuse(number: int, index: int, turn: Message, what: str) -> None:
    raise BadInputError(
        f"expected a chat template that renders the data's messages, but it {what} of message"
        f" {index + 1} ({turn['role']}) of row {number}: {str(turn['content'])[:40]!r}; use a model"
        " whose template has a place for it, or rows without",
        ("data", "train"),
    )
