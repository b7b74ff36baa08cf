"""Tokens of the answers of a conversation, as a model writes them after their prompts.

Where an answer begins is where the template's generation prompt ends: the border that rollouts and
scores have too. ``{% generation %}`` marks, which few templates have, may draw it elsewhere.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from transformers import PreTrainedTokenizerBase

from sweeper.distillation.data.calls import Message
from sweeper.distillation.data.chat_templates import render, template_variables
from sweeper.distillation.data.conversations import Example, is_system, texts
from sweeper.distillation.data.text_batches import Steps, one_by_one
from sweeper.distillation.models.answer_ends import answer_ends, turn_end_ids
from sweeper.foundation.errors import BadInputError

_EMPTY_BLOCK = re.compile(r"([<\[])(\w+)[>\]]\s*\1/\2[>\]]")
"""A block of thoughts without any: ``<think>\n\n</think>``."""


@dataclass(frozen=True)
class AnswerTokens:
    """A tokenizer, and how its answers end."""

    tokenizer: PreTrainedTokenizerBase
    ends: frozenset[int]
    """Every token that ends an answer."""
    text_end: int
    """Token to put after a text that the template ends with none."""
    call_end: int
    """Token to put after a call of a tool."""

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase) -> AnswerTokens:
        """Find a tokenizer's end tokens."""
        return cls(tokenizer, frozenset(turn_end_ids(tokenizer)), *answer_ends(tokenizer))


def last_answer(
    example: Example, prompt: str, answers: AnswerTokens
) -> tuple[tuple[int, ...], bool]:
    """Return what ``answer_steps`` does, for one row; ``prompt`` is the text before the answer."""
    before = answers.tokenizer(prompt, add_special_tokens=False)["input_ids"]
    return one_by_one(answer_steps(example, prompt, before, answers), answers.tokenizer)


def answer_steps(
    example: Example, prompt: str, before: Sequence[int], answers: AnswerTokens
) -> Steps[tuple[tuple[int, ...], bool]]:
    """Return the token ids of the reference answer, up to the token that ends it.

    True stands for an answer that the template ends with no token: it got one, because a student
    learns to stop from it.

    Args:
        example: The conversation.
        prompt: Text before the answer.
        before: Tokens of that text.
        answers: The student's tokenizer.

    Raises:
        BadInputError: The template rewrites the prompt once there is an answer, or its generation
            prompt and its answer disagree about a block of thoughts.
    """
    tokenizer, answer = answers.tokenizer, example.answer
    assert answer is not None
    rendered = _render(example, len(example.messages) + 1, tokenizer)
    _check_follows(example, len(example.messages), prompt, rendered, tokenizer)
    tokens = yield from _continuation(prompt, before, rendered)
    for position, token in enumerate(tokens):
        # Text that a template puts after the end of the turn is no part of the answer.
        if token in answers.ends:
            _check_end(answer, token, tokenizer.decode(tokens[position + 1 :]), answers)
            return tuple(tokens[: position + 1]), False
    end = answers.call_end if answer.get("tool_calls") else answers.text_end
    return (*tokens, end), True


def earlier_answers(
    example: Example, prompt: str, answers: AnswerTokens
) -> tuple[tuple[int, int], ...]:
    """Return the spans of the prompt's tokens that are trained answers, end tokens included.

    Raises:
        BadInputError: The template writes an earlier answer otherwise than the model would.
    """
    if not example.earlier:
        return ()
    tokenizer = answers.tokenizer
    encoded = tokenizer(prompt, add_special_tokens=False, return_offsets_mapping=True)
    tokens, offsets = encoded["input_ids"], encoded["offset_mapping"]
    spans = []
    for index in example.earlier:
        before = _render(example, index, tokenizer, asks=True)
        after = _render(example, index + 1, tokenizer)
        _check_follows(example, index, before, after, tokenizer)
        # A token that reaches over the border belongs to what comes before.
        start = next((i for i, (first, _) in enumerate(offsets) if first >= len(before)), None)
        end = None
        if start is not None:
            end = next((i for i in range(start, len(tokens)) if tokens[i] in answers.ends), None)
        written = "" if end is None else prompt[: offsets[end][0]]
        if start is None or end is None or not _same(written, after, prompt, offsets[end][1]):
            found, wanted = first_difference(prompt, after)
            raise BadInputError(
                "expected a chat template that leaves earlier answers as they were written, but"
                f" message {index + 1} has {found!r} where it had {wanted!r} while it was the last:"
                " trained there, the student would learn what it never writes"
                " (data.assistant_turns: last trains the last answer only)",
                ("data", "assistant_turns"),
            )
        rest = after[offsets[end][1] :]
        _check_end(example.messages[index], tokens[end], rest, answers)
        spans.append((start, end + 1))
    return tuple(spans)


def _same(written: str, after: str, prompt: str, end: int) -> bool:
    """Return whether a conversation up to an answer's end token is what it was without the rest."""
    if after.startswith(prompt[:end]):
        return True
    # The template ends answers with none: the token is the next turn's.
    return written == after


def first_difference(one: str, other: str) -> tuple[str, str]:
    """Return an extract of two texts around the position where they begin to differ."""
    pairs = enumerate(zip(one, other, strict=False))
    position = next((i for i, (a, b) in pairs if a != b), min(len(one), len(other)))
    around = slice(max(0, position - 10), position + 30)
    return one[around], other[around]


def _render(
    example: Example,
    count: int,
    tokenizer: PreTrainedTokenizerBase,
    *,
    asks: bool = False,
    **options: Any,
) -> str:
    """Return the first ``count`` messages, the reference answer among them, as text."""
    answer = example.answer
    turns = [*example.messages, *([answer] if answer is not None else [])][:count]
    options = {**example.options, **options}
    return render(turns, tokenizer, tools=example.tools, options=options, asks=asks)


def _check_follows(
    example: Example, index: int, before: str, after: str, tokenizer: PreTrainedTokenizerBase
) -> None:
    """Check that an answer follows its prompt, and that they agree about a block of thoughts.

    Args:
        example: The conversation.
        index: Index of the answer.
        before: Text before it.
        after: Text with it.
        tokenizer: The student's.

    Raises:
        BadInputError: It does not, or they disagree.
    """
    content = str(([*example.messages, example.answer][index] or {}).get("content"))
    follows = after.startswith(before)
    if follows and not _adds_thoughts(before, after, content):
        return
    remedy = _remedy(example, index, content, tokenizer)
    found, wanted = first_difference(after, before)
    if remedy is not None:
        raise BadInputError(
            "expected a generation prompt and a reference answer that agree about the block of"
            f" thoughts, but the chat template has {before[-30:]!r} before an answer and"
            f" {after[len(before) - 10 :][:40]!r} with it; write data.chat_template_kwargs:"
            f" {remedy}",
            ("data", "chat_template_kwargs"),
        )
    if follows:
        raise BadInputError(
            "expected a reference answer with reasoning_content, because the chat template thinks"
            f" before it answers: {before[-30:]!r} would go on with"
            f" {after[len(before) :][:40]!r}, no thoughts; the template has no argument that turns"
            " thinking off (data.format: plain does without the template)",
            ("data", "train"),
        )
    if is_system(example.messages[0]) and _follows_alone(example, index, tokenizer):
        raise BadInputError(
            "expected no system message, because the chat template moves it once there is an"
            f" answer: the prompt has {found!r} where it had {wanted!r}; write its text into the"
            " user's messages"
        )
    raise BadInputError(
        "expected a chat template that is prefix-preserving: with the answer, the prompt has"
        f" {found!r} where it had {wanted!r}"
        " (data.format: plain does without the template)",
        ("student", "model"),
    )


def _follows_alone(example: Example, index: int, tokenizer: PreTrainedTokenizerBase) -> bool:
    """Return whether an answer follows its prompt without the system message."""
    alone = replace(example, messages=example.messages[1:])
    try:
        before = _render(alone, index - 1, tokenizer, asks=True)
        return _render(alone, index, tokenizer).startswith(before)
    except BadInputError:
        return False


def _adds_thoughts(before: str, after: str, content: str) -> bool:
    """Return whether the template adds an empty block of thoughts that the prompt leaves open."""
    start = after.find(content.strip(), len(before)) if content.strip() else -1
    head = after[: start if start >= 0 else len(after)]
    # A block that the answer's own text begins with is the answer's.
    return any(
        match.end() > len(before) and not after[len(before) : match.start()].strip()
        for match in _EMPTY_BLOCK.finditer(head)
    )


def _remedy(
    example: Example, index: int, content: str, tokenizer: PreTrainedTokenizerBase
) -> str | None:
    """Return arguments of the template under which prompt and answer agree, as YAML."""
    # Thinking first: other switches may happen to have the same effect.
    names = sorted(template_variables(tokenizer), key=lambda name: ("think" not in name, name))
    for name in names:
        for value in (False, True):
            try:
                before = _render(example, index, tokenizer, asks=True, **{name: value})
                after = _render(example, index + 1, tokenizer, **{name: value})
            except BadInputError:
                continue
            if after.startswith(before) and not _adds_thoughts(before, after, content):
                return f"{{{name}: {str(value).lower()}}}"
    return None


def _check_end(answer: Message, end: int, rest: str, answers: AnswerTokens) -> None:
    """Check that no end token of an answer's own text, calls or thoughts ends it before its end.

    Args:
        answer: The answer.
        end: Token that ends it.
        rest: Text after that token.
        answers: The tokenizer's ends.

    Raises:
        BadInputError: There is one, and more of the answer after it.
    """
    token, *others = (
        str(answers.tokenizer.convert_ids_to_tokens(one)) for one in (end, *answers.ends)
    )
    for other in others:
        rest = rest.replace(other, "")
    if rest.strip() and any(token in text for text in texts(answer)):
        raise BadInputError(
            f"expected an answer without end tokens in its text, found {token!r} before"
            f" {rest.strip()[:30]!r}"
        )


def _continuation(prompt: str, before: Sequence[int], text: str) -> Steps[list[int]]:
    """Return the tokens of ``text`` after ``prompt``, as they follow it.

    Tokenized alone, an answer may begin with a token that no answer after a prompt has.
    """
    together = yield text
    if together[: len(before)] == list(before):
        return together[len(before) :]
    # A token reaches over the border: the prompt stays as it is at evaluation.
    return (yield text[len(prompt) :])
