"""The data step: data, tokenizers, template and suites looked over before anything is trained.

Each part is looked at on its own, so that what is wrong with one does not hide the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from sweeper.distillation.data.examples import to_examples
from sweeper.distillation.data.left_out import check_stock, left_out
from sweeper.distillation.data.misread import misread
from sweeper.distillation.data.rows import columns_of, read_rows
from sweeper.distillation.data.training_data import (
    own_teacher,
)
from sweeper.distillation.models.context_length import check_lengths
from sweeper.evaluation.served_model import check_servable
from sweeper.evaluation.tasks import LeafTask, load_tasks, scored_by
from sweeper.execution.worker.column_checks import check_references
from sweeper.execution.worker.findings import Findings
from sweeper.execution.worker.inspect_models import (
    check_optimisers,
    find_shapes,
    read_models,
    read_own_teachers,
    rehearse_trainings,
)
from sweeper.execution.worker.judgement_checks import check_started
from sweeper.execution.worker.leakage import check_leaks
from sweeper.execution.worker.length_checks import check_suite, check_training
from sweeper.execution.worker.progress import ProgressWriter
from sweeper.execution.worker.summaries import rows_summary, token_lengths
from sweeper.foundation.errors import BadInputError
from sweeper.records import (
    DataCheck,
    DataSummary,
    PreparationSpec,
)


def inspect_data(spec: PreparationSpec, reporter: ProgressWriter) -> dict[str, Any]:
    """Check data, models and suites; return what the outcome records of them."""
    findings = Findings(spec)
    reporter.phase("read the data")
    check_optimisers(findings)
    _read_rows(findings)
    read_models(findings)
    read_own_teachers(findings)
    rehearse_trainings(findings)
    _read_tokens(findings)
    reporter.phase("check that no prompt is in two places")
    _read_suites(findings)
    _measure(findings)
    reporter.phase("shapes of the models")
    find_shapes(findings)
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


def _read_rows(findings: Findings) -> None:
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


def _read_tokens(findings: Findings) -> None:
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


def _read_suites(findings: Findings) -> None:
    spec = findings.spec
    allow_code = spec.origin.evaluation.allow_code_execution
    served = spec.origin.evaluation.engine == "vllm"
    with findings.noting("evaluation", "selection"):
        findings.selection = load_tasks(spec.suite, allow_code=allow_code)
        if served:
            check_servable(findings.selection)
    if spec.test_suite is not None:
        with findings.noting("evaluation", "test"):
            findings.test = load_tasks(spec.test_suite, allow_code=allow_code)
            if served:
                check_servable(findings.test)
    before = len(findings.problems)
    check_leaks(spec, findings.examples or (), findings.selection, findings.test, findings.noting)
    complete = findings.examples is not None and findings.selection is not None
    complete &= spec.test_suite is None or findings.test is not None
    findings.overlap_free = complete and len(findings.problems) == before


def _measure(findings: Findings) -> None:
    """Check how far what the models read reaches into their positions."""
    spec, material = findings.spec, findings.material
    if material is None or findings.origin is None or findings.data is None:
        return
    findings.overlong += check_training(spec, material, findings.noting)
    if spec.judged is not None:
        with findings.noting("teacher", "server"):
            check_started(spec.judged, material)
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


def _summary(findings: Findings) -> DataSummary | None:
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
