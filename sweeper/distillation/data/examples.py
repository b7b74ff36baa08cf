"""Rows of the data as prompts, reference answers and token sequences."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from sweeper.config import builtin
from sweeper.config.columns import ColumnsConfig, guess_columns, unknown_columns
from sweeper.config.data import DataConfig
from sweeper.distillation.models.loading import turn_end_ids
from sweeper.foundation.errors import BadInputError, blaming

_FORMATS = {".json": "json", ".jsonl": "json", ".csv": "csv", ".parquet": "parquet"}


@dataclass(frozen=True)
class Example:
    """One prompt, as chat messages, with its reference answer if there is one."""

    messages: tuple[dict[str, str], ...]
    completion: str | None

    @property
    def prompt(self) -> str:
        """Last user message, which a leak check compares."""
        return self.messages[-1]["content"]


@dataclass(frozen=True)
class TokenSequence:
    """Token ids of a prompt and of an answer to it, end token included."""

    prompt: tuple[int, ...]
    completion: tuple[int, ...] | None


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
    else:
        import datasets
        from datasets.packaged_modules import _PACKAGED_DATASETS_MODULES as READERS

        if not files and source.path in READERS:
            # One of these readers unpickles whatever lies in the working directory.
            message = f"expected the name of a dataset, found {source.path!r}, a kind of file"
            raise BadInputError(message, ("data", "train", "path"))
        try:
            if files:
                suffix = "." + files[0].rsplit(".", 1)[-1]
                loaded = datasets.load_dataset(
                    _FORMATS[suffix], data_files={source.split: list(files)}, split=source.split
                )
            else:
                loaded = datasets.load_dataset(
                    source.path, source.name, split=source.split, revision=source.revision
                )
        except Exception as error:  # the library raises its own kinds for every format
            reason = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
            message = f"cannot read the data {source.path}: {reason}"
            raise BadInputError(message, ("data", "train", "path")) from error
        rows = loaded.to_list()
    rows = rows[: source.limit]
    if not rows:
        message = f"expected rows, found none in {source.path} (split {source.split})"
        raise BadInputError(message, ("data", "train", "path"))
    return rows


def read_examples(data: DataConfig, files: Sequence[str]) -> list[Example]:
    """Read the rows as prompts and reference answers.

    Raises:
        BadInputError: A column is missing, or a row does not hold text.
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
        BadInputError: A column is missing, or a row does not hold text.
    """
    system = [{"role": "system", "content": data.system_prompt}] if data.system_prompt else []
    examples = []
    for number, row in enumerate(rows, start=1):
        place = f"row {number} of {data.train.path}"
        if columns.messages is not None:
            messages = _cell(row, columns.messages, list, place)
            examples.append(_from_messages(messages, system, place))
            continue
        assert columns.prompt is not None
        user = {"role": "user", "content": _cell(row, columns.prompt, str, place)}
        answer = columns.completion
        if answer is not None:
            answer = _cell(row, answer, str, place)
        examples.append(Example((*system, user), answer))
    return examples


def tokenize(
    examples: Sequence[Example],
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    completions: Sequence[tuple[int, ...]] | None = None,
) -> TokenizedData:
    """Tokenize every example through the tokenizer's chat template.

    A sequence that is longer than ``max_length`` tokens is cut at its end; an example whose prompt
    leaves no room for an answer is dropped and counted. ``completions`` are token ids to use
    instead of the references, one for each example.

    Raises:
        BadInputError: The template rewrites the prompt once there is an answer, or nothing is left.
    """
    kept: list[int] = []
    sequences: list[TokenSequence] = []
    lengths: list[tuple[int, int]] = []
    dropped = cut = 0
    for index, example in enumerate(examples):
        with blaming("data", "train"):
            prompt_text = render_prompt(example, tokenizer)
        prompt = tuple(tokenizer(prompt_text, add_special_tokens=False)["input_ids"])
        if len(prompt) >= max_length:
            lengths.append((len(prompt), 0))
            dropped += 1
            continue
        completion: tuple[int, ...] | None = None
        if completions is not None:
            completion = completions[index]
        elif example.completion is not None:
            completion = tokenize_completion(example, prompt_text, tokenizer)
        lengths.append((len(prompt), len(completion or ())))
        if completion is not None and len(prompt) + len(completion) > max_length:
            completion = completion[: max_length - len(prompt)]
            cut += 1
        kept.append(index)
        sequences.append(TokenSequence(prompt, completion))
    notes = []
    if dropped:
        notes.append(f"{dropped} prompts of {max_length} tokens or more were dropped (max_length)")
    if cut:
        notes.append(f"{cut} answers were cut at {max_length} tokens (max_length)")
    if not sequences:
        message = f"expected room for prompts, but every prompt is {max_length} tokens or longer"
        raise BadInputError(message, ("training", "max_length"))
    return TokenizedData(tuple(kept), tuple(sequences), tuple(lengths), tuple(notes))


def render_prompt(example: Example, tokenizer: PreTrainedTokenizerBase) -> str:
    """Return the prompt as the model reads it, up to the start of its answer.

    Raises:
        BadInputError: The chat template refuses the messages.
    """
    try:
        return str(
            tokenizer.apply_chat_template(
                list(example.messages), tokenize=False, add_generation_prompt=True
            )
        )
    except TemplateError as error:
        message = f"expected messages that the chat template takes, but it says: {error}"
        raise BadInputError(message) from error


def tokenize_completion(
    example: Example, prompt_text: str, tokenizer: PreTrainedTokenizerBase
) -> tuple[int, ...]:
    """Return the token ids of the reference answer, up to the token that ends it.

    Raises:
        BadInputError: The template rewrites the prompt once there is an answer.
    """
    answer = {"role": "assistant", "content": example.completion}
    rendered = str(tokenizer.apply_chat_template([*example.messages, answer], tokenize=False))
    if not rendered.startswith(prompt_text):
        found, wanted = first_difference(rendered, prompt_text)
        raise BadInputError(
            "expected a chat template that is prefix-preserving: with the answer, the prompt has"
            f" {found!r} where it had {wanted!r}"
            " (data.format: plain does without the template)",
            ("student", "model"),
        )
    tokens = _continuation(prompt_text, rendered, tokenizer)
    ends = turn_end_ids(tokenizer)
    for position, token in enumerate(tokens):
        # Text that a template puts after the end of the turn is no part of the answer.
        if token in ends:
            return tuple(tokens[: position + 1])
    return tuple(tokens)


def first_difference(one: str, other: str) -> tuple[str, str]:
    """Return an extract of two texts around the position where they begin to differ."""
    pairs = enumerate(zip(one, other, strict=False))
    position = next((i for i, (a, b) in pairs if a != b), min(len(one), len(other)))
    around = slice(max(0, position - 10), position + 30)
    return one[around], other[around]


def check_template(tokenizer: PreTrainedTokenizerBase, system_prompt: str | None) -> None:
    """Check, before there are rows, that answers follow their prompts in the chat template.

    Raises:
        BadInputError: The template rewrites prompts, or refuses such messages.
    """
    turns = [{"role": "system", "content": system_prompt}] if system_prompt else []
    example = Example((*turns, {"role": "user", "content": "Question?"}), "Answer.")
    with blaming("data", "system_prompt" if system_prompt else "train"):
        prompt = render_prompt(example, tokenizer)
    tokenize_completion(example, prompt, tokenizer)


def _continuation(prompt: str, text: str, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Return the tokens of ``text`` after ``prompt``, as they follow it.

    Tokenized alone, an answer may begin with a token that no answer after a prompt has.
    """
    before = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    together = tokenizer(text, add_special_tokens=False)["input_ids"]
    if together[: len(before)] == before:
        return list(together[len(before) :])
    # A token reaches over the border: the prompt stays as it is at evaluation.
    return list(tokenizer(text[len(prompt) :], add_special_tokens=False)["input_ids"])


def fingerprint(examples: Sequence[Example]) -> str:
    """Return the SHA-256 of all prompts and references, in order."""
    digest = hashlib.sha256()
    for example in examples:
        for message in example.messages:
            digest.update(f"{message['role']}\0{message['content']}\0".encode())
        digest.update(f"{example.completion}\1".encode())
    return digest.hexdigest()


def prompt_hash(text: str) -> str:
    """Return the SHA-256 of a prompt, whatever its white space, to find a prompt in two places."""
    return hashlib.sha256(" ".join(text.split()).encode()).hexdigest()


def _cell(row: dict[str, Any], column: str, kind: type, place: str) -> Any:
    """Return a row's value in a column."""
    if column not in row:
        columns = ", ".join(sorted(row))
        raise BadInputError(f"no column {column!r} in {place}, only {columns}")
    value = row[column]
    if not isinstance(value, kind) or not value:
        expected = "text" if kind is str else "a list of messages"
        raise BadInputError(
            f"expected {expected} in column {column!r}, {place}, found {_short(value)}"
        )
    return value


def _from_messages(
    messages: list[dict[str, str]], system: list[dict[str, str]], place: str
) -> Example:
    """Convert a row of chat messages to a prompt and, if the last turn is one, a reference."""
    for turn in messages:
        if not isinstance(turn, dict) or not all(
            isinstance(turn.get(key), str) for key in ("role", "content")
        ):
            raise BadInputError(
                f"expected messages with role and content in {place}, found {_short(turn)}"
            )
    turns = [{"role": m["role"], "content": m["content"]} for m in messages]
    if system and turns[0]["role"] != "system":
        turns = [*system, *turns]
    completion = turns.pop()["content"] if turns[-1]["role"] == "assistant" else None
    if not turns or turns[-1]["role"] != "user":
        raise BadInputError(f"expected a user message before the answer in {place}")
    return Example(tuple(turns), completion)


def _short(value: object) -> str:
    """Return a value for a message, cut at 80 characters."""
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
