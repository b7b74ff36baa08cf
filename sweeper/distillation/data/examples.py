"""Rows of the data as prompts, reference answers and token sequences."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from sweeper.config import builtin
from sweeper.config.columns import ColumnsConfig, guess_columns, unknown_columns
from sweeper.config.data import DataConfig, DatasetConfig
from sweeper.distillation.data.answers import AnswerTokens, earlier_answers, last_answer
from sweeper.distillation.data.chat_templates import render
from sweeper.distillation.data.conversations import (
    Conversation,
    Example,
    is_system,
    may_ask,
    read_conversation,
)
from sweeper.foundation import data_files
from sweeper.foundation.data_folders import kept_of_a_folder
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


def read_rows(data: DataConfig, files: Sequence[str]) -> list[dict[str, Any]]:
    """Read the rows of the training data, from the absolute paths ``files`` if it is local.

    Raises:
        BadInputError: They cannot be read, or there are none.
    """
    source = data.train
    if source.path.startswith("builtin/"):
        try:
            rows: list[dict[str, Any]] = list(
                builtin.dataset(source.path.removeprefix("builtin/"), source.split)
            )
        except ValueError as error:
            raise BadInputError(str(error), ("data", "train", "split")) from error
    elif files:
        with blaming("data", "train", "path"):
            rows = [
                row
                for name in files
                for row in data_files.read_rows(Path(name), source.split, source.field)
            ]
    else:
        rows = _rows_of_hub(source)
    rows = rows[: source.limit]
    if not rows:
        message = f"expected rows, found none in {source.path} (split {source.split})"
        raise BadInputError(message, ("data", "train", "path"))
    return rows


def read_examples(data: DataConfig, files: Sequence[str]) -> list[Example]:
    """Read the rows as prompts and reference answers.

    Raises:
        BadInputError: A column is missing, or a row does not hold text or messages.
    """
    rows = read_rows(data, files)
    return to_examples(rows, columns_of(data, rows), data)


def columns_of(data: DataConfig, rows: Sequence[dict[str, Any]]) -> ColumnsConfig:
    """Return the columns that the study names, or guess them.

    Raises:
        BadInputError: They cannot be guessed.
    """
    columns = data.train.columns or guess_columns(rows[0])
    if columns is None:
        message = unknown_columns(data.train.path, rows[0])
        raise BadInputError(message, ("data", "train", "columns"))
    return columns


@blaming("data", "train", "columns")
def to_examples(
    rows: Sequence[dict[str, Any]], columns: ColumnsConfig, data: DataConfig
) -> list[Example]:
    """Convert rows to prompts and reference answers.

    Raises:
        BadInputError: A column is missing, or a row does not hold text or messages.
    """
    examples = []
    for number, row in enumerate(rows, start=1):
        place = f"row {number} of {data.train.path}"
        examples.append(_example(read_conversation(row, columns, place), data, place))
    return examples


def _example(conversation: Conversation, data: DataConfig, place: str) -> Example:
    """Divide a conversation into the prompt and, if its last turn is one, a reference."""
    turns, start = list(conversation.messages), conversation.completion_start
    masked = conversation.masked
    if data.system_prompt and not is_system(turns[0]):
        turns, start = [{"role": "system", "content": data.system_prompt}, *turns], start + 1
    size = len(turns)
    answer = turns.pop() if turns[-1]["role"] == "assistant" else None
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
    fields = {k: v for k, v in (answer or {}).items() if k not in ("role", "content")}
    return Example(
        tuple(turns),
        None if answer is None else answer["content"],
        fields,
        earlier,
        conversation.tools,
        conversation.options,
    )


def tokenize(
    examples: Sequence[Example],
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    completions: Sequence[tuple[int, ...]] | None = None,
    *,
    references: bool = True,
) -> TokenizedData:
    """Tokenize every example through the tokenizer's chat template.

    A sequence that is longer than ``max_length`` tokens is cut at its end; an example whose prompt
    leaves no room for an answer is dropped and counted. ``completions`` are token ids to use
    instead of the references, one for each example. Without ``references``, which then nothing is
    trained on, those that the template cannot make are left out.

    Raises:
        BadInputError: The template rewrites the prompt once there is an answer, or nothing is left.
    """
    kept: list[int] = []
    sequences: list[TokenSequence] = []
    lengths: list[tuple[int, int]] = []
    dropped = cut = unended = unusable = 0
    answers = AnswerTokens.of(tokenizer)
    for index, example in enumerate(examples):
        with blaming("data", "train"):
            prompt_text = render_prompt(example, tokenizer)
        prompt = tuple(tokenizer(prompt_text, add_special_tokens=False)["input_ids"])
        if len(prompt) >= max_length:
            lengths.append((len(prompt), 0))
            dropped += 1
            continue
        completion: tuple[int, ...] | None = None
        earlier: tuple[tuple[int, int], ...] = ()
        if completions is not None:
            completion = completions[index]
        elif example.completion is not None:
            try:
                completion, appended = last_answer(example, prompt_text, answers)
                earlier = earlier_answers(example, prompt_text, answers)
                unended += appended
            except BadInputError as error:
                if references:
                    row = f"row {index + 1}: {error}"
                    raise BadInputError(row, error.key or ("data", "train")) from error
                unusable += 1
        lengths.append((len(prompt), len(completion or ())))
        if completion is not None and len(prompt) + len(completion) > max_length:
            completion = completion[: max_length - len(prompt)]
            cut += 1
        kept.append(index)
        sequences.append(TokenSequence(prompt, completion, earlier))
    notes = []
    if dropped:
        notes.append(f"{dropped} prompts of {max_length} tokens or more were dropped (max_length)")
    if cut:
        notes.append(f"{cut} answers were cut at {max_length} tokens (max_length)")
    if unended:
        notes.append(f"the chat template ends {unended} answers with no token; they got one")
    if unusable:
        notes.append(
            f"{unusable} references do not follow their prompts in the chat template; no arm"
            " trains on references"
        )
    if not sequences:
        message = f"expected room for prompts, but every prompt is {max_length} tokens or longer"
        raise BadInputError(message, ("training", "max_length"))
    return TokenizedData(tuple(kept), tuple(sequences), tuple(lengths), tuple(notes), unended)


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
    if answers:
        try:
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


def _rows_of_hub(source: DatasetConfig) -> list[dict[str, Any]]:
    """Read the rows of a data set on the hub, from its cache if there is no network."""
    import datasets
    from datasets.packaged_modules import _PACKAGED_DATASETS_MODULES as READERS

    if source.path in READERS:
        # One of these readers unpickles whatever lies in the working directory.
        message = f"expected the name of a dataset, found {source.path!r}, a kind of file"
        raise BadInputError(message, ("data", "train", "path"))
    if source.field is not None:
        message = f"expected a JSON file, whose key {source.field!r} holds the rows"
        raise BadInputError(message, ("data", "train", "field"))
    try:
        loaded = datasets.load_dataset(
            source.path, source.name, split=source.split, revision=source.revision
        )
    except Exception as error:  # the library raises its own kinds for every format
        reason = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
        message = (
            f"cannot read the data {source.path}: there is no such file or folder, and as a data"
            f" set on the hub: {reason}"
        )
        raise BadInputError(message, ("data", "train", "path")) from error
    if kept := kept_of_a_folder(file["filename"] for file in loaded.cache_files):
        message = (
            f"expected a file, a folder or a data set on the hub, found no {source.path}; only the"
            f" cache of the library datasets has rows of another folder of this name, in {kept}"
        )
        raise BadInputError(message, ("data", "train", "path"))
    # Arrow has every key in every row; those that a value lacks are null.
    return [
        {key: data_files.without_null(value) for key, value in row.items()}
        for row in loaded.to_list()
    ]
