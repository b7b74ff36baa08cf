"""Rows that say something else than their columns do, though nothing of them is left out."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from sweeper.distillation.data.calls import Message
from sweeper.distillation.data.chat_templates import render
from sweeper.distillation.data.conversations import TOOL_ROLES, Example, is_system
from sweeper.foundation.errors import BadInputError

_USUAL = {*TOOL_ROLES, "user", "assistant"}
_SHORT = 3
"""Most characters of a special token that usual text may have: ``<s>``."""


def misread(
    examples: Sequence[Example], tokenizer: PreTrainedTokenizerBase, *, chat: bool
) -> tuple[str, ...]:
    """Return sentences about such rows: how many, the first, and what to do.

    ``chat`` is True if prompts go through a chat template of the model's own.
    """
    signs = _Signs.of(tokenizer) if chat else _Signs()
    places: dict[tuple[str, str], list[str]] = {}
    for number, example in enumerate(examples, start=1):
        for sentence in dict.fromkeys(_misread(example, signs)):
            places.setdefault(sentence, []).append(example.where(number))
    return tuple(
        f"{len(found):,} {whose}, the first of them {found[0]}, {what}"
        for (whose, what), found in places.items()
    )


@dataclass(frozen=True)
class _Signs:
    """What texts of messages should not hold."""

    marks: re.Pattern[str] | None = None
    """Tokens that the chat template writes around a question."""
    special: re.Pattern[str] | None = None
    """The tokenizer's other special tokens."""
    template: str | None = None
    """Text of the chat template, if the models have one."""

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase) -> _Signs:
        text = ""
        with suppress(BadInputError):  # which is told where rows go through the template
            text = render([{"role": "user", "content": "Question?"}], tokenizer, asks=True)
        added = [t for t in tokenizer.added_tokens_decoder.values() if len(t.content) > _SHORT]
        marks = {token.content for token in added if token.content in text}
        special = {token.content for token in added if token.special} - marks
        return cls(_any_of(marks), _any_of(special), str(tokenizer.chat_template))


def _misread(example: Example, signs: _Signs) -> Iterator[tuple[str, str]]:
    """Yield whose texts are misread, and how."""
    turns = [*example.messages, *([example.answer] if example.answer else [])]
    asked = [turn["content"] for turn in turns if turn["role"] != "assistant"]
    if mark := _first(signs.marks, asked):
        yield (
            "prompts",
            f"hold {mark}, which the chat template writes itself, so that they go through it twice."
            " Write data.format: plain, or rows without it.",
        )
    texts = [turn["content"] for turn in turns]
    if token := _first(signs.special, texts):
        yield (
            "rows",
            f"hold {token} in a text, which the tokenizer reads as one of its special tokens."
            " Remove it, unless that is meant.",
        )
    for turn in example.messages:
        role = turn["role"]
        if not _says(turn) and not is_system(turn):
            yield "rows", f"have an empty {role} message. Leave it out, unless that is meant."
        unusual = role not in _USUAL and not is_system(turn)
        if unusual and signs.template is not None and role not in signs.template:
            yield (
                "rows",
                f"have the role {role!r}, which the chat template does not name. Use a role that"
                " the models were trained with.",
            )
    if example.answer is not None and not _says(example.answer):
        yield (
            "answers",
            "are empty, and train a student to say nothing. Leave these rows out, unless that is"
            " meant.",
        )


def _any_of(tokens: Iterable[str]) -> re.Pattern[str] | None:
    longest_first = sorted(tokens, key=lambda token: (-len(token), token))
    return re.compile("|".join(map(re.escape, longest_first))) if longest_first else None


def _first(pattern: re.Pattern[str] | None, texts: Sequence[str]) -> str | None:
    found = (pattern.search(text) for text in texts) if pattern else ()
    return next((match[0] for match in found if match), None)


def _says(turn: Message) -> bool:
    return any(value and str(value).strip() for key, value in turn.items() if key != "role")
