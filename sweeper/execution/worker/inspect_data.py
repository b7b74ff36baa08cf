"""The data step: data, tokenizers, template and suites looked over before anything is trained.

Each part is looked at on its own, so that what is wrong with one does not hide the others.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from sweeper.config.attention import attention_problem, precisions
from sweeper.config.base import Scalar
from sweeper.config.models import ModelConfig, StudentConfig
from sweeper.config.optimisation import BITSANDBYTES
from sweeper.distillation.data.chat_templates import writes_date
from sweeper.distillation.data.compatibility import aligned, template_note, token_ids
from sweeper.distillation.data.conversations import Example
from sweeper.distillation.data.examples import TokenizedData, render_prompt, to_examples
from sweeper.distillation.data.left_out import check_stock, left_out
from sweeper.distillation.data.misread import misread
from sweeper.distillation.data.rows import RefusedRows, columns_of, placed, read_rows
from sweeper.distillation.data.training_data import (
    TrainingData,
    check_teacher,
    own_teacher,
    student_training_data,
    teacher_tokenizer,
    unpack_model,
)
from sweeper.distillation.memory_shape import shapes_of, weights_dtype
from sweeper.distillation.models.adapters import check_adapter
from sweeper.distillation.models.answer_ends import turn_end_ids
from sweeper.distillation.models.context_length import check_lengths
from sweeper.distillation.models.loadable import check_loadable, published_settings
from sweeper.distillation.models.loading import default_attention, read_config
from sweeper.distillation.rehearsal import check_sharding, rehearse
from sweeper.evaluation.tasks import LeafTask, load_tasks, scored_by
from sweeper.execution.worker.column_checks import check_references
from sweeper.execution.worker.leakage import check_leaks
from sweeper.execution.worker.length_checks import check_suite, check_training
from sweeper.execution.worker.progress import ProgressWriter
from sweeper.execution.worker.summaries import rows_summary, token_lengths
from sweeper.foundation.errors import BadInputError, blaming
from sweeper.records import (
    DataCheck,
    DataSummary,
    Failure,
    ModelShape,
    PreparationSpec,
    RowsSummary,
    ScoredTask,
    StudyInputs,
    TokenizerSummary,
)


@dataclass
class _Findings:
    """Findings so far; a part is None where it is wrong."""

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
    attention: dict[str, str] = field(default_factory=dict)
    overlap_free: bool = False
    scored: list[ScoredTask] = field(default_factory=list)
    left_out: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    generation: dict[str, str] = field(default_factory=dict)
    overlong: list[str] = field(default_factory=list)
    """Notes on texts that are longer than a model was made for."""

    def note(self, text: str | None) -> None:
        """Keep a note on a model, once."""
        if text is not None and text not in self.models:
            self.models += (text,)

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
    findings = _Findings(spec)
    reporter.phase("read the data")
    _check_optimisers(findings)
    _read_rows(findings)
    _read_models(findings)
    _rehearse(findings)
    _read_own_teachers(findings)
    _read_tokens(findings)
    reporter.phase("check that no prompt is in two places")
    _read_suites(findings)
    _measure(findings)
    reporter.phase("shapes of the models")
    _find_shapes(findings)
    summary = _summary(findings)
    examination = DataCheck(
        rows=findings.rows,
        tokenizer=findings.tokenizer,
        data=summary,
        selection_documents=_count(findings.selection),
        test_documents=_count(findings.test),
        test_scored=None
        if findings.test is None
        else sum(len(leaf.documents) for leaf in findings.test),
        scored_by={
            role: scored_by(leaves)
            for role, leaves in (("selection", findings.selection), ("test", findings.test))
            if leaves is not None
        },
        overlap_free=findings.overlap_free,
        left_out=findings.left_out,
        models=findings.models,
        generation=findings.generation,
        overlong=tuple(findings.overlong),
        attention=findings.attention,
        shapes=findings.shapes,
        problems=tuple(findings.problems),
    )
    return {"data": None if findings.problems else summary, "examination": examination}


def _check_optimisers(findings: _Findings) -> None:
    """Check that the package of each optimiser is installed where trials run."""
    everywhere = findings.spec.origin.training.optim
    if find_spec("bitsandbytes") is not None:
        return
    needed = {
        (("training", "optim") if name == everywhere else ("arms", arm)): name
        for arm, names in findings.spec.optimisers.items()
        for name in names
        if name in BITSANDBYTES
    }
    for key, name in needed.items():
        with findings.noting(*key):
            raise BadInputError(
                f"{name} needs bitsandbytes, which is not installed:"
                " pip install 'sweeper[quantization]'"
            )


def _rehearse(findings: _Findings) -> None:
    """Build the parts of every kind of training; a wrong one is noted once for each arm."""
    spec, origin = findings.spec, findings.origin
    if origin is None:
        return
    with findings.noting("compute"):
        for key in spec.shards:
            check_sharding(origin.teacher if key == "shard_teacher" else origin.student, key)
    blamed: set[tuple[str, ...]] = set()
    seen: list[ModelConfig] = [origin.teacher]
    for trial in spec.rehearsals:
        before = len(findings.problems)
        if trial.key[:2] in blamed:
            continue
        with findings.noting(*trial.key):
            rehearse(
                trial, origin.student, device=spec.place.device, directory=spec.place.directory
            )
            if (teacher := own_teacher(origin, trial.teacher)) not in seen:
                seen.append(teacher)
                findings.note(check_loadable(teacher))
        if len(findings.problems) > before:
            blamed.add(trial.key[:2])


def _read_rows(findings: _Findings) -> None:
    origin = findings.spec.origin
    with findings.noting("data", "train"):
        rows, places = read_rows(origin.data, origin.data_files)
        columns = columns_of(origin.data, rows)
        examples = tuple(to_examples(rows, columns, origin.data, places))
        findings.examples = examples
        findings.rows = rows_summary(rows, columns, examples, origin)
    with findings.noting("data", "train"):
        if findings.rows is not None and findings.examples is not None:
            users = findings.spec.reference_users
            check_references(findings.rows, findings.examples, users)


def _read_models(findings: _Findings) -> None:
    """Read both models' configurations and tokenizers; check that these fit together."""
    given = findings.spec.origin
    cache = Path(given.cache)
    teacher = student = None
    with findings.noting("teacher"):
        teacher = unpack_model("teacher", given.teacher, cache, given.model_folders)
    with findings.noting("student"):
        student = unpack_model("student", given.student, cache, given.model_folders)
        check_adapter(student, warm_start=given.warm_start is not None)
    for role, model in (("teacher", teacher), ("student", student)):
        if model is None:
            continue
        with findings.noting(role, "init_kwargs", "attn_implementation"):
            if default := _check_attention(findings, model):
                findings.attention[role] = default
        with findings.noting(role, "model"):
            findings.note(check_loadable(model))
        if settings := published_settings(model):
            findings.generation[role] = settings
    if teacher is not None and student is not None:
        with findings.noting("student", "vocab_size"):
            teacher, student = aligned(teacher, student)
            findings.origin = given.model_copy(update={"teacher": teacher, "student": student})
    if student is None:
        return
    with findings.noting("student", "model"):
        ours = findings.origin or given.model_copy(update={"student": student})
        findings.material = student_training_data(ours, findings.examples)
    if findings.material is None or findings.origin is None:
        return
    tokenizer, origin = findings.material.tokenizer, findings.origin
    with findings.noting("teacher", "model"):
        check_teacher(origin, origin.teacher, tokenizer)
        note = None
        if origin.data.format != "plain":
            names = (given.teacher.model, given.student.model)
            theirs = teacher_tokenizer(origin, origin.teacher)
            own = origin.teacher.chat_template_kwargs is not None
            if own:
                _check_own_template(findings, theirs)
            note = template_note(theirs, tokenizer, names, origin.data.system_prompt, own=own)
        findings.tokenizer = TokenizerSummary(
            tokens=len(tokenizer.get_vocab()),
            logits=token_ids(origin.student),
            chat=findings.material.chat,
            template_note=note,
            ends=tuple(
                str(tokenizer.convert_ids_to_tokens(token))
                for token in sorted(turn_end_ids(tokenizer))
            ),
            date=origin.data.date if writes_date(tokenizer) else None,
        )


def _check_own_template(findings: _Findings, theirs: PreTrainedTokenizerBase) -> None:
    """Check what a teacher's own template makes of the prompts, which it answers in it."""
    examples = findings.examples or ()
    with blaming("teacher", "chat_template_kwargs"):
        refused = RefusedRows()
        for number, example in enumerate(examples, start=1):
            place = example.where(number)
            with refused.noting(place), placed(place):
                render_prompt(example, theirs)
        refused.raise_if_any(len(examples))
        if findings.spec.needs_teacher_outputs:
            lost = left_out(examples, theirs, references=False, whose="the teacher's")
            findings.left_out = tuple(dict.fromkeys([*findings.left_out, *lost]))


def _check_attention(findings: _Findings, model: ModelConfig) -> str | None:
    """Check a model's attention in every phase, with the type that its weights are stored in.

    Returns:
        The attention that it has by default, where it is known.
    """
    name = model.init_kwargs.get("attn_implementation")
    training, device = findings.spec.origin.training, findings.spec.place.device
    student = isinstance(model, StudentConfig)
    autocast = "bfloat16" if training.bf16 else "float16" if training.fp16 else None
    weights = weights_dtype(model, read_config(model), device)
    phases = precisions(
        str(weights).removeprefix("torch."),
        student=student,
        autocast=autocast,
        scoring=findings.spec.origin.evaluation.dtype,
    )
    if message := attention_problem(name, phases, device, student=student):
        raise BadInputError(message)
    return default_attention(model)


def _read_own_teachers(findings: _Findings) -> None:
    """Check the teachers that arms have instead of the study's."""
    if findings.material is None or findings.origin is None:
        return
    spec = findings.spec
    for arm in dict.fromkeys([*spec.own_teachers, *spec.own_attentions]):
        attentions = spec.own_attentions.get(arm, ())
        ways = [{"init_kwargs.attn_implementation": name} for name in attentions] or [{}]
        named: list[dict[str, Scalar]] = [{"model": m} for m in spec.own_teachers.get(arm, ())]
        for values in named or [{}]:
            with findings.noting("arms", arm):
                for way in ways:
                    _check_attention(findings, own_teacher(findings.origin, {**values, **way}))
                if not values:
                    continue
                teacher = own_teacher(findings.origin, values)
                check_teacher(findings.origin, teacher, findings.material.tokenizer)
                own = teacher.chat_template_kwargs is not None
                if own and findings.origin.data.format != "plain":
                    _check_own_template(findings, teacher_tokenizer(findings.origin, teacher))


def _read_tokens(findings: _Findings) -> None:
    material = findings.material
    if material is None or findings.examples is None:
        return
    with findings.noting("data", "train"):
        origin = findings.spec.origin
        findings.data = material.tokens(origin.training.max_length)
        findings.left_out += left_out(
            findings.examples,
            material.tokenizer,
            origin.data.system_prompt,
            references=origin.references,
        )
        chat = material.chat
        findings.left_out += misread(findings.examples, material.tokenizer, chat=chat)
        if findings.spec.stock_engine:
            check_stock(findings.examples)
    if findings.data is not None and findings.tokenizer is not None:
        unended = findings.data.unended
        findings.tokenizer = findings.tokenizer.model_copy(update={"unended": unended})


def _read_suites(findings: _Findings) -> None:
    spec = findings.spec
    allow_code = spec.origin.evaluation.allow_code_execution
    with findings.noting("evaluation", "selection"):
        findings.selection = load_tasks(spec.suite, allow_code=allow_code)
    if spec.test_suite is not None:
        with findings.noting("evaluation", "test"):
            findings.test = load_tasks(spec.test_suite, allow_code=allow_code)
    before = len(findings.problems)
    check_leaks(spec, findings.examples or (), findings.selection, findings.test, findings.noting)
    complete = findings.examples is not None and findings.selection is not None
    complete &= spec.test_suite is None or findings.test is not None
    findings.overlap_free = complete and len(findings.problems) == before


def _measure(findings: _Findings) -> None:
    """Check how far what the models read reaches into their positions."""
    spec, material = findings.spec, findings.material
    if material is None or findings.origin is None or findings.data is None:
        return
    findings.overlong += check_training(spec, material, findings.noting)
    for arm, limit in spec.own_lengths.items():
        lengths = material.tokens(limit.longest).lengths
        for model in spec.own_teachers[arm]:
            # Whatever else is wrong with it is noted already.
            with suppress(BadInputError):
                teacher = own_teacher(findings.origin, {"model": model})
                with findings.noting("arms", arm):
                    findings.overlong += check_lengths({"teacher": teacher}, limit, lengths)
    for role, suite, leaves in (
        ("selection", spec.suite, findings.selection),
        ("test", spec.test_suite, findings.test),
    ):
        if suite is not None and leaves is not None:
            with findings.noting("evaluation", role):
                tasks, notes = check_suite(suite, leaves, material, ("evaluation", role))
                findings.scored += tasks
                findings.overlong += notes


def _find_shapes(findings: _Findings) -> None:
    """Find how large the models are; what is wrong with one is noted above."""
    if findings.origin is not None:
        spec = findings.spec
        try:
            findings.shapes = shapes_of(findings.origin, spec.shapes, spec.place.device)
        except Exception:  # whatever a configuration's own code raises
            traceback.print_exc()


def _summary(findings: _Findings) -> DataSummary | None:
    data, material, rows = findings.data, findings.material, findings.rows
    if data is None or material is None or rows is None:
        return None
    origin = findings.spec.origin
    notes = list(data.notes)
    if rows.repeated:
        notes.append(f"{rows.repeated} prompts stand in the training data more than once")
    if findings.tokenizer is not None and findings.tokenizer.template_note:
        notes.append(findings.tokenizer.template_note)
    notes += [*rows.unused, *findings.left_out, *findings.overlong]
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
        scored=tuple(findings.scored),
        selection_documents=_count(findings.selection),
        test_documents=_count(findings.test),
        lengths=token_lengths(data, origin.training.max_length),
        notes=tuple(notes),
    )


def _count(leaves: Sequence[LeafTask] | None) -> int | None:
    """Return how many documents a suite's score is made of."""
    if leaves is None:
        return None
    return sum(len(leaf.documents) for leaf in leaves if leaf.entry.weight)
