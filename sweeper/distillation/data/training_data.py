"""Common start of a study's jobs: models, the student's tokenizer, examples and their tokens."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Literal

import torch
from safetensors.torch import load_file, save_file
from transformers import PreTrainedTokenizerBase

from sweeper.config.base import Scalar
from sweeper.config.models import ModelConfig, with_settings
from sweeper.config.remote_server import RemoteServer
from sweeper.distillation.data.chat_templates import check_default, set_defaults, template_variables
from sweeper.distillation.data.compatibility import (
    aligned,
    check_heads,
    check_pair,
    cut_to,
    token_ids,
)
from sweeper.distillation.data.conversations import Example
from sweeper.distillation.data.examples import (
    TokenizedData,
    TokenSequence,
    check_template,
    fingerprint,
    read_examples,
    tokenize,
)
from sweeper.distillation.models.attention import check_attention
from sweeper.distillation.models.loading import (
    Model,
    is_plain,
    load_tokenizer,
    read_config,
    unpack,
)
from sweeper.distillation.models.quantization import check_quantization
from sweeper.foundation.cache import Cache, hash_text
from sweeper.foundation.environment import library_versions
from sweeper.foundation.errors import BadInputError, blaming
from sweeper.records import StudyInputs

_TENSORS, _ABOUT = "tokens.safetensors", "about.json"
_FORMAT = 3
"""Version of the cache's format of tokens."""


@dataclass(frozen=True)
class TrainingData:
    """The student's tokenizer and the examples, which are read on first use."""

    inputs: StudyInputs
    tokenizer: PreTrainedTokenizerBase
    given_examples: tuple[Example, ...] | None = None
    """Examples that have been read already."""

    @property
    def chat(self) -> bool:
        """True if prompts go through a chat template of the model's own."""
        return not is_plain(self.tokenizer)

    @cached_property
    def examples(self) -> tuple[Example, ...]:
        """Prompts and references of the rows.

        Raises:
            BadInputError: The data cannot be read.
        """
        if self.given_examples is not None:
            return self.given_examples
        return tuple(read_examples(self.inputs.data, self.inputs.data_files))

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the examples; taken from the study's inputs once they have been read."""
        return self.inputs.data_fingerprint or fingerprint(self.examples)

    @cached_property
    def text_key(self) -> dict[str, str]:
        """Determinants of the tokens of a text."""
        return {
            "tokenizer": hash_text(self.tokenizer.backend_tokenizer.to_str()),
            "template": str(self.tokenizer.chat_template),
        }

    def tokens(
        self,
        max_length: int,
        answers: Callable[[], Sequence[tuple[int, ...] | None]] | None = None,
        answers_key: str | None = None,
    ) -> TokenizedData:
        """Return the examples as token ids, from the cache or tokenized now; see ``tokenize``.

        ``answers`` gives the ``completions``, and ``answers_key`` is a hash of what decides them.
        """
        determinants = {
            "data": self.fingerprint,
            **self.text_key,
            "max_length": max_length,
            "answers": answers_key,
            "references": self.inputs.references,
            "format": _FORMAT,
            "versions": library_versions(),
        }

        def build(directory: Path) -> None:
            given = answers() if answers else None
            tokenized = tokenize(
                self.examples,
                self.tokenizer,
                max_length,
                given,
                references=self.inputs.references,
            )
            _write(tokenized, directory)

        return Cache(Path(self.inputs.cache)).read("tokens", determinants, build, _read)

    def asked_of(self, teacher: ModelConfig) -> TrainingData:
        """Return the data as the teacher is asked: in its own template, if it has arguments."""
        if teacher.chat_template_kwargs is None:
            return self
        return replace(self, tokenizer=teacher_tokenizer(self.inputs, teacher))


def unpack_models(inputs: StudyInputs) -> StudyInputs:
    """Return the study's inputs with models as they are loaded.

    Packed models come from the cache, unpacked. Padding that only one of the vocabularies has is
    left out.

    Raises:
        BadInputError: A package is not installed, or a model cannot be distilled here.
    """
    cache = Path(inputs.cache)
    teacher = unpack_model("teacher", inputs.teacher, cache, inputs.model_folders)
    student = unpack_model("student", inputs.student, cache, inputs.model_folders)
    if teacher.has_tokenizer():
        teacher, student = aligned(teacher, student)
    return inputs.model_copy(update={"teacher": teacher, "student": student})


def unpack_model(
    role: Literal["teacher", "student"],
    model: Model,
    cache: Path,
    folders: Mapping[str, str] = {},
) -> Model:
    """Return a model as it is loaded, after a check of its configuration.

    A served teacher that is only a name stays as it is.

    Raises:
        BadInputError: It cannot be read, or cannot be distilled here.
    """
    if not model.has_tokenizer():
        return model
    if isinstance(model.server, RemoteServer):
        # What it is called at the server is not where its tokenizer lies.
        named = model.server.model_copy(update={"model": model.server.model or model.model})
        model = model.model_copy(update={"server": named})
    with blaming(role, "model"):
        unpacked = unpack(model, cache, folders)
        config = read_config(unpacked)
    with blaming(role, "quantization"):
        check_quantization(model, config)
    with blaming(role, "init_kwargs", "attn_implementation"):
        check_attention(model)
    return unpacked


def read_training_data(inputs: StudyInputs) -> TrainingData:
    """Load the student's tokenizer, and check the teacher's against it, if that is read.

    Raises:
        BadInputError: A tokenizer cannot be read, or the vocabularies differ.
    """
    data = student_training_data(inputs)
    with blaming("teacher", "model"):
        check_teacher(inputs, inputs.teacher, data.tokenizer)
    return data


def student_training_data(
    inputs: StudyInputs, examples: tuple[Example, ...] | None = None
) -> TrainingData:
    """Load the student's tokenizer, without a check of the teacher's.

    Raises:
        BadInputError: The tokenizer cannot be read, or its template cannot be used.
    """
    with blaming("student", "model"):
        tokenizer = load_tokenizer(inputs.student, plain=inputs.data.format == "plain")
        check_default(tokenizer)
    with blaming("data", "chat_template_kwargs"):
        set_defaults(tokenizer, inputs.data.chat_template_kwargs, inputs.data.date)
    if inputs.data.format == "chat" and is_plain(tokenizer):
        message = f"expected a model with a chat template, found none in {inputs.student.model}"
        raise BadInputError(message, ("data", "format"))
    if inputs.data.system_prompt and is_plain(tokenizer):
        message = "expected none, because without a chat template nothing marks it as one"
        raise BadInputError(message, ("data", "system_prompt"))
    check_template(tokenizer, inputs.data.system_prompt, answers=inputs.references)
    data = TrainingData(inputs, tokenizer, examples)
    # Taken before the tokenizer is used: padding and truncation then become part of its state, and
    # jobs would not find each other's cache entries.
    _ = data.text_key
    return data


def teacher_tokenizer(inputs: StudyInputs, teacher: ModelConfig) -> PreTrainedTokenizerBase:
    """Load the teacher's own tokenizer; its template has the teacher's arguments, or the study's.

    Raises:
        BadInputError: It cannot be read, or its template has no such argument.
    """
    tokenizer = load_tokenizer(teacher, plain=inputs.data.format == "plain")
    with blaming("teacher", "model"):
        check_default(tokenizer)
    values = teacher.chat_template_kwargs
    if values is None:
        # Those that the student's template has, and this one may lack.
        known = template_variables(tokenizer)
        values = {k: v for k, v in inputs.data.chat_template_kwargs.items() if k in known}
    with blaming("teacher", "chat_template_kwargs"):
        set_defaults(tokenizer, values, inputs.data.date)
    return tokenizer


def check_teacher(
    inputs: StudyInputs, teacher: ModelConfig, tokenizer: PreTrainedTokenizerBase
) -> None:
    """Check that ``teacher`` shares the student's vocabulary, and has as many logits.

    A served teacher that answers by text may have any.

    Raises:
        BadInputError: They differ, or the teacher has no tokenizer.
    """
    if not teacher.has_tokenizer():
        return
    names = (teacher.model, inputs.student.model)
    check_pair(load_tokenizer(teacher), tokenizer, names)
    check_heads(teacher, inputs.student, tokenizer)


def own_teacher(
    inputs: StudyInputs, values: Mapping[str, Scalar], start: ModelConfig | None = None
) -> ModelConfig:
    """Return the teacher of an arm: the study's, with the arm's own dotted settings.

    ``start`` is the starting student, for an arm that has it as its teacher; by default the student
    before a warm start, which has the same shape.

    Raises:
        BadInputError: It cannot be read.
    """
    if inputs.teacher.server is not None:
        return inputs.teacher  # no arm has another next to it
    teacher = with_settings(inputs.teacher, values, start or inputs.student.before_training())
    unpacked = unpack(teacher, Path(inputs.cache), inputs.model_folders)
    return cut_to(unpacked, token_ids(inputs.student))


def _write(data: TokenizedData, directory: Path) -> None:
    """Write tokens as a cache entry."""
    parts: dict[str, list[Sequence[int]]] = {
        "prompts": [sequence.prompt for sequence in data.sequences],
        "completions": [sequence.completion or () for sequence in data.sequences],
        "earlier": [[i for span in s.earlier for i in span] for s in data.sequences],
    }
    tensors = {
        "kept": torch.tensor(data.kept, dtype=torch.int64),
        "uncut": torch.tensor(data.lengths, dtype=torch.int32).reshape(-1, 2),
    }
    for name, sequences in parts.items():
        flat = [token for sequence in sequences for token in sequence]
        tensors[name] = torch.tensor(flat, dtype=torch.int32)
        tensors[f"{name}_lengths"] = torch.tensor([len(s) for s in sequences], dtype=torch.int32)
    answered = [sequence.completion is not None for sequence in data.sequences]
    tensors["answered"] = torch.tensor(answered)
    save_file(tensors, directory / _TENSORS)
    (directory / _ABOUT).write_text(
        json.dumps({"notes": data.notes, "unended": data.unended}), encoding="utf-8"
    )


def _read(directory: Path) -> TokenizedData:
    """Read the tokens of a cache entry."""
    tensors = load_file(directory / _TENSORS)

    def split(name: str) -> list[tuple[int, ...]]:
        flat = tensors[name].tolist()
        ends = list(accumulate(tensors[f"{name}_lengths"].tolist()))
        return [tuple(flat[a:b]) for a, b in zip([0, *ends], ends, strict=False)]

    answered = tensors["answered"].tolist()
    rows = zip(split("prompts"), split("completions"), answered, split("earlier"), strict=True)
    sequences = tuple(
        TokenSequence(p, c if has else None, tuple(zip(e[::2], e[1::2], strict=True)))
        for p, c, has, e in rows
    )
    about = json.loads((directory / _ABOUT).read_text(encoding="utf-8"))
    lengths = tuple((prompt, answer) for prompt, answer in tensors["uncut"].tolist())
    kept = tuple(tensors["kept"].tolist())
    return TokenizedData(kept, sequences, lengths, tuple(about["notes"]), about["unended"])
