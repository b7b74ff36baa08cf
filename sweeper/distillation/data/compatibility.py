"""Checks of a teacher and a student as a pair: tokens, logits and chat templates."""

from __future__ import annotations

from typing import TypeVar

from transformers import PreTrainedTokenizerBase

from sweeper.config.models import ModelConfig
from sweeper.distillation.data.answers import first_difference
from sweeper.distillation.data.chat_templates import render
from sweeper.distillation.models.loading import is_plain, read_config
from sweeper.foundation.errors import BadInputError, blaming

Teacher = TypeVar("Teacher", bound=ModelConfig)
Student = TypeVar("Student", bound=ModelConfig)


def aligned(teacher: Teacher, student: Student) -> tuple[Teacher, Student]:
    """Return both models with as many token ids as the smaller one has rows.

    Makers pad embeddings and heads to round numbers that differ within a family: Qwen2.5 has
    151,936 rows up to 3B and 152,064 from 7B on, of which its tokenizer uses 151,665.
    """
    with blaming("teacher", "vocab_size"):
        theirs = token_ids(teacher)
    with blaming("student", "vocab_size"):
        ours = token_ids(student)
    return cut_to(teacher, min(ours, theirs)), cut_to(student, min(ours, theirs))


def cut_to(model: Teacher, rows: int) -> Teacher:
    """Return the model with at most ``rows`` token ids."""
    return model.model_copy(update={"vocab_size": rows}) if token_ids(model) > rows else model


def token_ids(model: ModelConfig) -> int:
    """Return the number of logits that the model gives.

    Raises:
        BadInputError: It cannot be read, or has fewer than ``vocab_size``.
    """
    rows = int(read_config(model).get_text_config().vocab_size)
    if model.vocab_size is None:
        return rows
    if model.vocab_size > rows:
        raise BadInputError(
            f"expected at most {rows}, the rows of {model.model}, found {model.vocab_size}"
        )
    return model.vocab_size


def check_pair(
    teacher: PreTrainedTokenizerBase, student: PreTrainedTokenizerBase, names: tuple[str, str]
) -> None:
    """Check that teacher and student have the same vocabulary, added tokens included.

    Raises:
        BadInputError: Their vocabularies differ, so their distributions cannot be compared.
    """
    theirs, ours = teacher.get_vocab(), student.get_vocab()
    if theirs == ours:
        return
    differing = [t for t in {**ours, **theirs} if ours.get(t) != theirs.get(t)]
    token = differing[0]
    raise BadInputError(
        f"The vocabularies of the teacher {names[0]} and the student {names[1]} differ in"
        f" {len(differing)} of {len({*ours, *theirs})} tokens, for example in {token!r} (teacher"
        f" {theirs.get(token, 'without it')}, student {ours.get(token, 'without it')}), so their"
        " next-token distributions cannot be compared."
    )


def check_heads(
    teacher: ModelConfig, student: ModelConfig, tokenizer: PreTrainedTokenizerBase
) -> None:
    """Check that both models, as they are loaded, give as many logits, and one for each token.

    Raises:
        BadInputError: The numbers differ, so their distributions cannot be compared.
    """
    theirs, ours = token_ids(teacher), token_ids(student)
    if ours != theirs:
        raise BadInputError(
            f"The student {student.model} has {ours} logits and the teacher {teacher.model}"
            f" {theirs}, so their next-token distributions cannot be compared; if what the student"
            f" has more is padding, student.vocab_size: {theirs} leaves it out."
        )
    cut = teacher.vocab_size is not None or student.vocab_size is not None
    last = max(tokenizer.get_vocab().values())
    if cut and last >= ours:
        raise BadInputError(
            f"The teacher {teacher.model} and the student {student.model} have {ours} token ids in"
            f" common, but their tokenizer uses ids up to {last}."
        )


def template_note(
    teacher: PreTrainedTokenizerBase,
    student: PreTrainedTokenizerBase,
    names: tuple[str, str],
    system_prompt: str | None,
    *,
    own: bool = False,
) -> str | None:
    """Return a note if the chat templates of teacher and student differ; None if they agree.

    Both models read the student's rendering of a conversation. The teacher may have been trained on
    its own. With ``own`` it answers prompts in its own.
    """
    turns = [{"role": "system", "content": system_prompt}] if system_prompt else []
    turns += [{"role": "user", "content": "Question?"}, {"role": "assistant", "content": "Answer."}]
    if is_plain(student):
        if is_plain(teacher):
            return None
        return (
            f"the student {names[1]} reads texts without a chat template, and so does the teacher"
            f" {names[0]}, which has one"
        )
    ours = _both(turns, student)
    try:
        theirs = _both(turns, teacher)
    except BadInputError as error:
        theirs = f"({error})"
    if ours == theirs:
        return None
    here, there = first_difference(theirs, ours)
    both = "teacher outputs are asked in the teacher's, all else" if own else "both read"
    return (
        f"the chat templates of the teacher {names[0]} and the student {names[1]} differ"
        f" ({here!r} and {there!r}); {both} the student's"
    )


def _both(turns: list[dict[str, str]], tokenizer: PreTrainedTokenizerBase) -> str:
    """Return a conversation, and what comes before its answer."""
    return render(turns, tokenizer) + render(turns[:-1], tokenizer, asks=True)
