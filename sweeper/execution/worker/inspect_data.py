"""The data step: data, tokenizers, template and suites looked over before anything is trained.

Each part is looked at on its own, so that what is wrong with one does not hide the others.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sweeper.distillation.data.compatibility import aligned, template_note, token_ids
from sweeper.distillation.data.examples import (
    Example,
    TokenizedData,
    columns_of,
    prompt_hash,
    read_rows,
    to_examples,
)
from sweeper.distillation.data.training_data import (
    TrainingData,
    check_teacher,
    own_teacher,
    student_training_data,
    unpack_model,
)
from sweeper.distillation.memory_shape import shapes_of
from sweeper.distillation.models.loading import load_tokenizer, turn_end_ids
from sweeper.distillation.trainers import argument_names
from sweeper.evaluation.tasks import LeafTask, load_tasks
from sweeper.execution.worker.leakage import check_leaks
from sweeper.execution.worker.length_checks import check_suite, check_training
from sweeper.execution.worker.progress import ProgressWriter
from sweeper.foundation.errors import BadInputError, blaming
from sweeper.foundation.secrets import redact
from sweeper.records import (
    DataCheck,
    DataSummary,
    Failure,
    Lengths,
    ModelShape,
    PreparationSpec,
    RowsSummary,
    ScoredTask,
    StudyInputs,
    TokenizerSummary,
    TokenLengths,
)


@dataclass
class _Found:
    """What has been seen so far; a part of it is None where it is wrong."""

    spec: PreparationSpec
    problems: list[Failure] = field(default_factory=list)
    examples: tuple[Example, ...] | None = None
    rows: RowsSummary | None = None
    origin: StudyInputs | None = None
    material: TrainingData | None = None
    tokenizer: TokenizerSummary | None = None
    data: TokenizedData | None = None
    selection: list[LeafTask] | None = None
    test: list[LeafTask] | None = None
    shapes: tuple[ModelShape, ...] = ()
    overlap_free: bool = False
    scored: list[ScoredTask] = field(default_factory=list)
    overlong: list[str] = field(default_factory=list)
    """Notes on texts that are longer than a model was made for."""

    @contextmanager
    def noting(self, *key: str) -> Iterator[None]:
        """Note bad input in the block instead of stopping at it; blames ``key`` by default."""
        try:
            with blaming(*key):
                yield
        except BadInputError as error:
            message = str(error).splitlines()[0]
            self.problems.append(Failure(kind="bad_input", message=message, key=error.key))


def inspect_data(spec: PreparationSpec, reporter: ProgressWriter) -> dict[str, Any]:
    """Check data, models and suites; return what the outcome records of them."""
    found = _Found(spec)
    reporter.phase("read the data")
    _check_arguments(found)
    _read_rows(found)
    _read_models(found)
    _read_own_teachers(found)
    _read_tokens(found)
    reporter.phase("check that no prompt is in two places")
    _read_suites(found)
    _measure(found)
    reporter.phase("shapes of the models")
    _find_shapes(found)
    summary = _summary(found)
    examination = DataCheck(
        rows=found.rows,
        tokenizer=found.tokenizer,
        data=summary,
        selection_documents=_count(found.selection),
        test_documents=_count(found.test),
        test_scored=None if found.test is None else sum(len(leaf.documents) for leaf in found.test),
        overlap_free=found.overlap_free,
        overlong=tuple(found.overlong),
        shapes=found.shapes,
        problems=tuple(found.problems),
    )
    return {"data": None if found.problems else summary, "examination": examination}


def _check_arguments(found: _Found) -> None:
    for arm, (method, names) in found.spec.extra_arguments.items():
        for name in sorted(set(names) - argument_names(method)):
            everywhere = name in found.spec.origin.training.extra
            with found.noting(*(("training", "extra", name) if everywhere else ("arms", arm))):
                raise BadInputError(f"TRL's configuration for {method} has no argument {name!r}")


def _read_rows(found: _Found) -> None:
    origin = found.spec.origin
    with found.noting("data", "train"):
        rows = read_rows(origin.data, origin.data_files)
        columns = columns_of(origin.data, rows)
        examples = tuple(to_examples(rows, columns, origin.data))
        named = (columns.messages, columns.prompt, columns.completion)
        prompts = [prompt_hash(example.prompt) for example in examples]
        found.examples = examples
        found.rows = RowsSummary(
            rows=len(examples),
            source=redact(f"{origin.data.train.path} ({origin.data.train.split})"),
            columns=tuple(name for name in named if name is not None),
            references=sum(example.completion is not None for example in examples),
            repeated=len(prompts) - len(set(prompts)),
        )


def _read_models(found: _Found) -> None:
    """Read both models' configurations and tokenizers; check that these fit together."""
    given = found.spec.origin
    cache = Path(given.cache)
    teacher = student = None
    with found.noting("teacher"):
        teacher = unpack_model("teacher", given.teacher, cache)
    with found.noting("student"):
        student = unpack_model("student", given.student, cache)
    if teacher is not None and student is not None:
        with found.noting("student", "vocab_size"):
            teacher, student = aligned(teacher, student)
            found.origin = given.model_copy(update={"teacher": teacher, "student": student})
    if student is None:
        return
    with found.noting("student", "model"):
        ours = found.origin or given.model_copy(update={"student": student})
        found.material = student_training_data(ours, found.examples)
    if found.material is None or found.origin is None:
        return
    tokenizer, origin = found.material.tokenizer, found.origin
    with found.noting("teacher", "model"):
        check_teacher(origin, origin.teacher, tokenizer)
        note = None
        if origin.data.format != "plain":
            names = (given.teacher.model, given.student.model)
            theirs = load_tokenizer(origin.teacher)
            note = template_note(theirs, tokenizer, names, origin.data.system_prompt)
        found.tokenizer = TokenizerSummary(
            tokens=len(tokenizer.get_vocab()),
            logits=token_ids(origin.student),
            chat=found.material.chat,
            template_note=note,
            ends=tuple(
                str(tokenizer.convert_ids_to_tokens(token))
                for token in sorted(turn_end_ids(tokenizer))
            ),
        )


def _read_own_teachers(found: _Found) -> None:
    """Check the teachers that arms have instead of the study's."""
    if found.material is None or found.origin is None:
        return
    for arm, models in found.spec.own_teachers.items():
        for model in models:
            with found.noting("arms", arm):
                teacher = own_teacher(found.origin, {"model": model})
                check_teacher(found.origin, teacher, found.material.tokenizer)


def _read_tokens(found: _Found) -> None:
    material = found.material
    if material is None or found.examples is None:
        return
    with found.noting("data", "train"):
        found.data = material.tokens(found.spec.origin.training.max_length)
    if found.data is None or found.tokenizer is None:
        return
    ends = turn_end_ids(material.tokenizer)
    unended = sum(
        sequence.completion[-1] not in ends
        for index, sequence in zip(found.data.kept, found.data.sequences, strict=True)
        # One that was cut has lost its end.
        if sequence.completion and len(sequence.completion) == found.data.lengths[index][1]
    )
    found.tokenizer = found.tokenizer.model_copy(update={"unended": unended})


def _read_suites(found: _Found) -> None:
    spec = found.spec
    allow_code = spec.origin.evaluation.allow_code_execution
    with found.noting("evaluation", "selection"):
        found.selection = load_tasks(spec.suite, allow_code=allow_code)
    if spec.test_suite is not None:
        with found.noting("evaluation", "test"):
            found.test = load_tasks(spec.test_suite, allow_code=allow_code)
    before = len(found.problems)
    check_leaks(spec, found.examples or (), found.selection, found.test, found.noting)
    complete = found.examples is not None and found.selection is not None
    complete &= spec.test_suite is None or found.test is not None
    found.overlap_free = complete and len(found.problems) == before


def _measure(found: _Found) -> None:
    """Check how far what the models read reaches into their positions."""
    spec, material = found.spec, found.material
    if material is None or found.origin is None or found.data is None:
        return
    found.overlong += check_training(spec, material, found.noting)
    for role, suite, leaves in (
        ("selection", spec.suite, found.selection),
        ("test", spec.test_suite, found.test),
    ):
        if suite is not None and leaves is not None:
            with found.noting("evaluation", role):
                tasks, notes = check_suite(suite, leaves, material, ("evaluation", role))
                found.scored += tasks
                found.overlong += notes


def _find_shapes(found: _Found) -> None:
    """Find how large the models are; what is wrong with one is noted above."""
    if found.origin is not None:
        spec = found.spec
        try:
            found.shapes = shapes_of(found.origin, spec.shapes, spec.place.device)
        except Exception:  # whatever a configuration's own code raises
            traceback.print_exc()


def _summary(found: _Found) -> DataSummary | None:
    data, material, rows = found.data, found.material, found.rows
    if data is None or material is None or rows is None:
        return None
    origin = found.spec.origin
    notes = list(data.notes)
    if rows.repeated:
        notes.append(f"{rows.repeated} prompts stand in the training data more than once")
    if found.tokenizer is not None and found.tokenizer.template_note:
        notes.append(found.tokenizer.template_note)
    notes += found.overlong
    lengths = [len(sequence.prompt) for sequence in data.sequences]
    answers = [len(sequence.completion or ()) for sequence in data.sequences]
    return DataSummary(
        rows=rows.rows,
        used=len(data.sequences),
        fingerprint=material.fingerprint,
        source=rows.source,
        local=bool(origin.data_files) or origin.data.train.path.startswith("builtin/"),
        prompt_tokens=sum(lengths) / len(lengths),
        completion_tokens=sum(answers) / len(answers),
        chat=material.chat,
        scored=tuple(found.scored),
        selection_documents=_count(found.selection),
        test_documents=_count(found.test),
        lengths=_lengths(data, origin.training.max_length),
        notes=tuple(notes),
    )


def _lengths(data: TokenizedData, max_length: int) -> TokenLengths:
    prompts = [prompt for prompt, _ in data.lengths]
    answers = [answer for _, answer in data.lengths if answer]
    return TokenLengths(
        max_length=max_length,
        prompts=_percentiles(prompts),
        references=_percentiles(answers) if answers else None,
        sequences=_percentiles([sum(pair) for pair in data.lengths]),
        dropped=len(data.lengths) - len(data.kept),
        cut=sum(prompt < max_length < prompt + answer for prompt, answer in data.lengths if answer),
    )


def _percentiles(lengths: list[int]) -> Lengths:
    ordered = sorted(lengths)
    # By nearest rank: each is the length of one of them.
    ranks = [max(-(-percent * len(ordered) // 100) - 1, 0) for percent in range(101)]
    return Lengths(count=len(ordered), percentiles=tuple(ordered[rank] for rank in ranks))


def _count(leaves: Sequence[LeafTask] | None) -> int | None:
    """Return how many documents a suite's score is made of."""
    if leaves is None:
        return None
    return sum(len(leaf.documents) for leaf in leaves if leaf.entry.weight)
