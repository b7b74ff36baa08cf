"""Marks in the text of sampled answers: of thinking, and of turns that should have ended.

Some templates write marks inside an assistant's turn (gpt-oss's channels, ``[TOOL_CALLS]``), or
have their own marks of thinking. Rendered turns show which.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import product
from typing import Any

from transformers import PreTrainedTokenizerBase

from sweeper.distillation.data.chat_templates import render
from sweeper.foundation.errors import BadInputError

_THINKING = (
    r"(?i:<\|?/?(?:\w+[:_])?(?:think|thinking|thought|reasoning)\|?>)"
    r"|\[/?THINK\]|◁/?think▷|<\|channel\|>analysis|<\|channel>thought|<channel\|>"
)
"""Marks of thinking: those of Qwen3, DeepSeek, Seed-OSS, Cohere, Magistral, Kimi, gpt-oss and
Gemma 4. Answers may have those of other families than the tokenizer's."""
_TEMPLATE = re.compile(r"<\|[^|<>\s]{1,40}\|>|\[/?INST\]|<(?:start|end)_of_turn>")
"""Marks of chat templates, also of other families than the tokenizer's."""

_ASKED = {"role": "user", "content": "question"}
_SAID = {"role": "assistant", "content": "\N{BLACK STAR} answer"}
_THOUGHT = "\N{BLACK STAR} thought"
_THOUGHTS = dict.fromkeys(("reasoning_content", "reasoning", "thinking"), _THOUGHT)
_TOOL = {
    "type": "function",
    "function": {
        "name": "look_it_up",
        "description": "Look it up.",
        "parameters": {"type": "object", "properties": {"a": {"type": "string"}}},
    },
}


@dataclass(frozen=True)
class AnswerMarks:
    """Marks that are looked for in answers to prompts of one tokenizer's chat template."""

    tokenizer: PreTrainedTokenizerBase
    thinking: re.Pattern[str]
    own: frozenset[str] = frozenset()
    """Marks that the template writes inside an assistant's turn; an answer may have them."""
    next_turn: str = ""
    """Text between an answer and the user's next message, if all its marks are in ``own``; a mark
    itself. Otherwise empty."""

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase) -> AnswerMarks:
        """Return the marks for a student's tokenizer, with its chat template."""
        begins = map(re.escape, _begins_of_thoughts(tokenizer))
        bare = cls(tokenizer, re.compile("|".join([_THINKING, *begins])))
        own = frozenset(
            mark
            for before, after in _turns(tokenizer)
            for mark in bare._counts(after) - bare._counts(before)
        )
        further = _next_turn(tokenizer)
        marks = bare._counts(further)
        hidden = bool(marks) and own.issuperset(marks)
        return cls(tokenizer, bare.thinking, own, further if hidden else "")

    def found(self, tokens: Sequence[int]) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Return the marks of thinking in an answer, and those of chat templates."""
        text = str(self.tokenizer.decode(tokens, skip_special_tokens=False))
        thinking = tuple(dict.fromkeys(self.thinking.findall(text)))
        template = [mark for mark in self._counts(text) if mark not in self.own]
        runs_on = [self.next_turn] if self.next_turn and self.next_turn in text else []
        return thinking, (*template, *runs_on)

    def _counts(self, text: str) -> Counter[str]:
        """Count the marks of chat templates in a text."""
        rest = self.thinking.sub(" ", text)
        added = self.tokenizer.added_tokens_decoder.values()
        special = [token.content for token in added if token.special and token.content in rest]
        marks = dict.fromkeys([*special, *_TEMPLATE.findall(rest)])
        return Counter({mark: rest.count(mark) for mark in marks})


def _turns(tokenizer: PreTrainedTokenizerBase) -> Iterator[tuple[str, str]]:
    """Yield texts up to an assistant's turn, and with one of text, thoughts, or a call."""
    calls = (
        {"id": "call00001", "type": "function", "function": {"name": "look_it_up", "arguments": x}}
        # Some templates write arguments as they are.
        for x in ({"a": "b"}, '{"a": "b"}')
    )
    parts: Iterator[tuple[Any, ...]] = product(
        (None, [_TOOL]),
        ({}, {"content": ""}),
        ({}, _THOUGHTS),
        ({}, *({"tool_calls": [call]} for call in calls)),
    )
    for tools, content, thoughts, called in parts:
        turn = {**_SAID, **content, **thoughts, **called}
        # A template may refuse a combination.
        with suppress(BadInputError, AttributeError):
            before = render([_ASKED], tokenizer, tools=tools, asks=True)
            yield before, render([_ASKED, turn], tokenizer, tools=tools)


def _begins_of_thoughts(tokenizer: PreTrainedTokenizerBase) -> Iterator[str]:
    """Yield what the template writes before thoughts, and before no answer without them."""
    with suppress(BadInputError, AttributeError):
        before = render([_ASKED], tokenizer, asks=True)
        bare, thinking = (
            render([_ASKED, {**_SAID, **thoughts}], tokenizer) for thoughts in ({}, _THOUGHTS)
        )
        head, thought, _ = thinking.partition(_THOUGHT)
        begin = head[len(before) :].strip()
        known = not begin or re.search(_THINKING, begin) or begin in bare[len(before) :]
        if thought and head.startswith(before) and not known:
            yield begin


def _next_turn(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return what the template writes between an answer and the user's next message."""
    with suppress(BadInputError, AttributeError):
        text = render([_ASKED, _SAID, _ASKED], tokenizer)
        return text.rpartition(_SAID["content"])[2].partition(_ASKED["content"])[0].strip()
    return ""
