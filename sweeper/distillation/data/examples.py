"""Rows of the data as prompts, reference answers and token sequences."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from transformers import PreTrainedTokenizerBase

from sweeper.config.columns import ColumnsConfig
from sweeper.config.data import DataConfig
from sweeper.distillation.data.answers import (
    AnswerTokens,
    answer_steps,
    earlier_answers,
    last_answer,
)
from sweeper.distillation.data.chat_templates import render
from sweeper.distillation.data.conversations import (
    Conversation,
    Example,
    is_system,
    may_ask,
    read_conversation,
)
from sweeper.distillation.data.rows import RefusedRows, check_named, columns_of, placed, read_rows
from sweeper.distillation.data.text_batches import Steps, in_batches
from sweeper.foundation.data_files import Place
from sweeper.foundation.errors import BadInputError, blaming


@dataclass(frozen=True)
class TokenSequence:
    """Token ids of a prompt and of an answer to it, end token included."""

    prompt: tuple[int, ...]
    completion: tuple[int, ...] | None
    earlier: tuple[tuple[int, int], ...] = ()
    """Trained answers inside the prompt: their first positions, and those after their last."""

    @property
    def trained(self) -> int:
        """Number of tokens that are trained."""
        return len(self.completion or ()) + sum(end - start for start, end in self.earlier)


@dataclass(frozen=True)
class TokenizedData:
    """The data as token ids."""

    kept: tuple[int, ...]
    """Indices of the examples that the sequences are of."""
    sequences: tuple[TokenSequence, ...]
    lengths: tuple[tuple[int, int], ...]
    """Tokens of every example's prompt and answer before anything is cut; 0 for an answer that is
    missing, or dropped with its prompt."""
    notes: tuple[str, ...]
    """Sentences about dropped and cut examples."""
    unended: int = 0
    """Number of references that the template ends with no token; they got one."""


def read_examples(data: DataConfig, files: Sequence[str]) -> list[Example]:
    """Read the rows as prompts and reference answers.

    Raises:
        BadInputError: A column is missing, or a row does not hold text or messages.
    """
    rows, places = read_rows(data, files)
    return to_examples(rows, columns_of(data, rows), data, places)


@blaming("data", "train", "columns")
def to_examples(
    rows: Sequence[dict[str, Any]],
    columns: ColumnsConfig,
    data: DataConfig,
    places: Sequence[Place] = (),
) -> list[Example]:
    """Convert rows to prompts and reference answers, one for each row.

    Args:
        rows: Rows of the data.
        columns: What their columns hold.
        data: The study's.
        places: Where each row stands; by default, its number in the data.

    Raises:
        BadInputError: A column is missing, or rows do not hold text or messages.
    """
    places = places or [Place(data.train.path, number) for number in range(1, len(rows) + 1)]
    check_named(columns, rows, data.train.path)
    examples = []
    refused = RefusedRows()
    for row, place in zip(rows, places, strict=True):
        with refused.noting(place):
            examples.append(_example(read_conversation(row, columns, str(place)), data, place))
    refused.raise_if_any(len(rows))
    return examples


def _example(conversation: Conversation, data: DataConfig, place: Place) -> Example:
    """Divide a conversation into the prompt and, if its last turn is one, a reference."""
    turns, start = list(conversation.messages), conversation.completion_start
    masked = conversation.masked
    if data.system_prompt and not is_system(turns[0]):
        turns, start = [{"role": "system", "content": data.system_prompt}, *turns], start + 1
    size = len(turns)
    answer = turns.pop() if turns[-1]["role"] == "assistant" else None
    if answer is None and not may_ask(turns[-1]):
        raise BadInputError(
            f"expected an assistant's answer or a user's or tool's message at the end of {place},"
            f" found the role {turns[-1]['role']!r}"
        )
    if answer is not None and -1 in masked:
        raise BadInputError(
            f"expected a last answer that is trained in {place}, but it is marked not to be: end"
            " the row with one that is"
        )
    earlier: tuple[int, ...] = ()
    if answer is not None and data.assistant_turns == "all":
        earlier = tuple(
            index
            for index in range(start, len(turns))
            if turns[index]["role"] == "assistant" and index - size not in masked
        )
    if not all(index and may_ask(turns[index - 1]) for index in (*earlier, len(turns))):
        raise BadInputError(f"expected a user or tool message before the answer in {place}")
    if turns[-1]["role"] == "user" and not turns[-1]["content"].strip():
        raise BadInputError(f"expected text in the last user message of {place}, found none")
    fields = {k: v for k, v in (answer or {}).items() if k not in ("role", "content")}
    return Example(
        tuple(turns),
        None if answer is None else answer["content"],
        fields,
        earlier,
        conversation.tools,
        conversation.options,
        place,
    )


def tokenize(
    examples: Sequence[Example],
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    completions: Sequence[tuple[int, ...] | None] | None = None,
    *,
    references: bool = True,
) -> TokenizedData:
    """Tokenize every example through the tokenizer's chat template.

    A sequence that is longer than ``max_length`` tokens is cut at its end; an example whose prompt
    leaves no room for an answer is dropped and counted. ``completions`` are token ids to use
    instead of the references, one for each example; an example that has None is left out and
    counted. Without ``references``, which then nothing is
    trained on, those that the template cannot make are left out.

    Raises:
        BadInputError: The template rewrites the prompt once there is an answer, or nothing is left.
    """
    kept: list[int] = []
    sequences: list[TokenSequence] = []
    lengths: list[tuple[int, int]] = []
    dropped = unanswered = cut = unended = 0
    answers = AnswerTokens.of(tokenizer)
    refused, unusable = RefusedRows(), RefusedRows()
    places = [example.where(number) for number, example in enumerate(examples, start=1)]
    reads = completions is None
    rows = (
        _tokens(example, place, answers, max_length if reads else 0, references=references)
        for example, place in zip(examples, places, strict=True)
    )
    for index, (place, row) in enumerate(zip(places, in_batches(rows, tokenizer), strict=True)):
        if not isinstance(row, _Tokens):
            with refused.noting(place):
                raise row
            continue
        prompt, completion = row.prompt, row.completion
        if len(prompt) >= max_length:
            lengths.append((len(prompt), 0))
            dropped += 1
            continue
        if completions is not None and (completion := completions[index]) is None:
            lengths.append((len(prompt), 0))
            unanswered += 1
            continue
        if row.unusable is not None:
            with unusable.noting(place):
                raise row.unusable
        unended += row.unended
        lengths.append((len(prompt), len(completion or ())))
        if completion is not None and len(prompt) + len(completion) > max_length:
            completion = completion[: max_length - len(prompt)]
            cut += 1
        kept.append(index)
        sequences.append(TokenSequence(prompt, completion, row.earlier))
    with blaming("data", "train"):
        refused.raise_if_any(len(examples))
    notes = []
    if dropped:
        notes.append(f"{dropped} prompts of {max_length} tokens or more were dropped (max_length)")
    if unanswered:
        notes.append(f"{unanswered} prompts were left out, as the teacher has no answer to them")
    if cut:
        notes.append(f"{cut} answers were cut at {max_length} tokens (max_length)")
    if unended:
        notes.append(f"the chat template ends {unended} answers with no token; they got one")
    if unusable.count:
        notes.append(
            f"{unusable.count} references do not follow their prompts in the chat template; no arm"
            " trains on references"
        )
    if not sequences:
        message = f"expected room for prompts, but every prompt is {max_length} tokens or longer"
        raise BadInputError(message, ("training", "max_length"))
    return TokenizedData(tuple(kept), tuple(sequences), tuple(lengths), tuple(notes), unended)


@dataclass
class _Tokens:
    """Tokens of a row before anything is cut."""

    prompt: tuple[int, ...]
    completion: tuple[int, ...] | None = None
    earlier: tuple[tuple[int, int], ...] = ()
    unended: bool = False
    """True if the template ends the reference with no token."""
    unusable: BadInputError | RecursionError | None = None
    """Why the template cannot make the reference, if that does not matter."""


def _tokens(
    example: Example, place: str, answers: AnswerTokens, max_length: int, *, references: bool
) -> Steps[_Tokens]:
    """Tokenize a row's prompt, and its reference if the prompt is shorter than ``max_length``.

    Raises:
        BadInputError: The template refuses the prompt, or cannot make a reference that is needed.
    """
    with placed(place):
        text = render_prompt(example, answers.tokenizer)
    prompt = yield text
    row = _Tokens(tuple(prompt))
    if len(prompt) >= max_length or example.completion is None:
        return row
    try:
        with placed(place):
            row.completion, unended = yield from answer_steps(example, text, prompt, answers)
            row.earlier = earlier_answers(example, text, answers)
            row.unended = unended
    except (BadInputError, RecursionError) as error:
        if references:
            raise
        row.unusable = error
    return row


def render_prompt(example: Example, tokenizer: PreTrainedTokenizerBase) -> str:
    """Return the prompt as the model reads it, up to the start of its answer.

    Raises:
        BadInputError: The chat template refuses the messages.
    """
    turns = list(example.messages)
    return render(turns, tokenizer, tools=example.tools, options=example.options, asks=True)


def check_template(
    tokenizer: PreTrainedTokenizerBase, system_prompt: str | None, *, answers: bool = True
) -> None:
    """Check, before there are rows, that answers follow their prompts in the chat template.

    Args:
        tokenizer: The student's.
        system_prompt: The study's.
        answers: False if no reference answer is trained on.

    Raises:
        BadInputError: The template rewrites prompts, or refuses such messages.
    """
    turns = [{"role": "system", "content": system_prompt}] if system_prompt else []
    example = Example((*turns, {"role": "user", "content": "Question?"}), "Answer.")
    with blaming("data", "system_prompt" if system_prompt else "train"):
        prompt = render_prompt(example, tokenizer)
        if system_prompt and "".join(system_prompt.split()) not in "".join(prompt.split()):
            raise BadInputError("expected none: the chat template has no place for it")
    if not answers:
        return
    try:
        with blaming(*(["data", "system_prompt"] if system_prompt else ["student", "model"])):
            last_answer(example, prompt, AnswerTokens.of(tokenizer))
    except BadInputError:
        # Rows may have the reasoning that the template waits for.
        thinks = replace(example, answer_fields={"reasoning_content": "Reasoning."})
        with suppress(BadInputError):
            last_answer(thinks, prompt, AnswerTokens.of(tokenizer))
            return
        raise


def fingerprint(examples: Sequence[Example]) -> str:
    """Return the SHA-256 of all prompts and references, in order."""
    digest = hashlib.sha256()
    for example in examples:
        further: list[Any] = [example.answer_fields, example.earlier, example.tools]
        further.append(example.options)
        for message in example.messages:
            digest.update(f"{message['role']}\0{message['content']}\0".encode())
            further.append({k: v for k, v in message.items() if k not in ("role", "content")})
        digest.update(f"{example.completion}\1".encode())
        if any(further):
            digest.update(json.dumps(further, default=str).encode())
    return digest.hexdigest()


def prompt_hash(text: str) -> str:
    """Return the SHA-256 of a prompt, whatever its white space, to find a prompt in two places."""
    return hashlib.sha256(" ".join(text.split()).encode()).hexdigest()


def conversation_hash(example: Example) -> str:
    """Return the SHA-256 of everything before the answer, whatever its white space."""
    if len(example.messages) == 1:
        return prompt_hash(example.prompt)
    return prompt_hash(" ".join(f"{turn['role']} {turn['content']}" for turn in example.messages))
