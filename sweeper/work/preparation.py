"""A step before the trials: the data checked, or the teacher or the starting student scored."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sweeper.config.settings import resolve
from sweeper.distillation import held_out, job, teacher_outputs
from sweeper.distillation.data import prompt_hash
from sweeper.distillation.material import Material, read_material
from sweeper.distillation.models import end_token_ids, load_model, load_tokenizer
from sweeper.distillation.pairs import template_note
from sweeper.distillation.trainers import argument_names
from sweeper.errors import BadInputError, blaming
from sweeper.evaluation.tasks import LeafTask, load_tasks, prompts
from sweeper.records import DataSummary, Origin, PreparationSpec, SuiteSpec, derive_seed
from sweeper.reporter import Reporter
from sweeper.secrets import redact
from sweeper.work.scoring import parameters, scored


def do(spec: PreparationSpec, reporter: Reporter) -> dict[str, Any]:
    """Do the step; the parts of the outcome that follow from it."""
    reporter.phase("read the data")
    material = read_material(spec.origin)
    if spec.step == "data":
        return {"data": _check_data(spec, material, reporter)}
    place, origin = spec.place, spec.origin
    if spec.step in ("teacher", "test_teacher"):
        reporter.phase("load the teacher")
        model: Any = load_model(
            origin.teacher, place.device, seed=derive_seed(origin.seed, "teacher")
        )
    else:
        if origin.warm_start:
            reporter.phase("warm start", 0, origin.warm_start.max_steps)
        model = job.starting_student(origin, material, place, reporter.train)
    reporter.phase("score")
    found: dict[str, Any] = {"model_parameters": parameters(model)}
    found["scores"] = scored(spec, model, material)
    if spec.step == "teacher":
        found |= _ask_teacher(spec, model, material, reporter)
    return found


def _ask_teacher(
    spec: PreparationSpec, model: Any, material: Material, reporter: Reporter
) -> dict[str, Any]:
    """Have everything of the teacher's that trials share in the cache."""
    origin, place = spec.origin, spec.place
    found: dict[str, Any] = {}
    if spec.needs_teacher_outputs:
        reporter.phase("teacher outputs", 0, len(material.examples))
        answers = teacher_outputs.obtain(
            material,
            origin.teacher,
            place,
            lambda done, total: reporter.phase("teacher outputs", done, total),
        )
        longest = origin.teacher_outputs.max_new_tokens
        ends = end_token_ids(model, material.tokenizer)
        cut = sum(len(answer) >= longest and answer[-1] not in ends for answer in answers)
        if cut:
            found["notes"] = (
                f"{cut} of the {len(answers)} answers for seqkd and seq_kd were cut at {longest}"
                " tokens (teacher_outputs.max_new_tokens)",
            )
    for own in spec.reads:
        reporter.phase("teacher states")
        settings = resolve(origin.training, {"lmbda": 0.0, "seq_kd": own})
        data = job.training_sequences(material, place, origin.teacher, "gkd", settings)
        job.stored_teacher_states(
            material,
            data,
            place,
            origin.teacher,
            settings,
            lambda: model,
            lambda done, total: reporter.phase("teacher states", done, total),
        )
    reporter.phase("held-out sequences")
    leaves = load_tasks(spec.suite, allow_code=origin.evaluation.allow_code_execution)
    asked = (text for leaf in leaves for text, _ in prompts(leaf))
    found["held_out"] = str(held_out.prepare(material, list(asked), place, lambda: model))
    return found


def _check_data(spec: PreparationSpec, material: Material, reporter: Reporter) -> DataSummary:
    for arm, (method, names) in spec.extra_arguments.items():
        for name in sorted(set(names) - argument_names(method)):
            everywhere = name in spec.origin.training.extra
            key = ("training", "extra", name) if everywhere else ("arms", arm)
            raise BadInputError(f"TRL's configuration for {method} has no argument {name!r}", key)
    length = spec.origin.training.max_length
    data = material.tokens(length)
    reporter.phase("check that no prompt is in two places")
    notes = list(data.notes)
    trained_on = [prompt_hash(example.prompt) for example in material.examples]
    repeated = len(trained_on) - len(set(trained_on))
    if repeated:
        notes.append(f"{repeated} prompts stand in the training data more than once")
    known, allow_code = set(trained_on), spec.origin.evaluation.allow_code_execution
    with blaming("evaluation", "selection"):
        leaves = load_tasks(spec.suite, allow_code=allow_code)
        selection = _check_overlap(spec.suite, leaves, known, "the training data")
    documents, test_documents = _count(leaves), None
    if spec.test_suite is not None:
        with blaming("evaluation", "test"):
            leaves = load_tasks(spec.test_suite, allow_code=allow_code)
            _check_overlap(spec.test_suite, leaves, known, "the training data")
            name = f"the suite {spec.suite.config.suite}"
            _check_overlap(spec.test_suite, leaves, selection, name)
        test_documents = _count(leaves)
    if note := _template_note(spec.origin, material):
        notes.append(note)
    lengths = [len(sequence.prompt) for sequence in data.sequences]
    answers = [len(sequence.completion or ()) for sequence in data.sequences]
    return DataSummary(
        rows=len(material.examples),
        used=len(data.sequences),
        fingerprint=material.fingerprint,
        source=redact(f"{spec.origin.data.train.path} ({spec.origin.data.train.split})"),
        local=bool(spec.origin.data_files) or spec.origin.data.train.path.startswith("builtin/"),
        prompt_tokens=sum(lengths) / len(lengths),
        completion_tokens=sum(answers) / len(answers),
        chat=material.chat,
        selection_documents=documents,
        test_documents=test_documents,
        notes=tuple(notes),
    )


def _count(leaves: Sequence[LeafTask]) -> int:
    """The documents that a suite's score is made of."""
    return sum(len(leaf.documents) for leaf in leaves if leaf.entry.weight)


def _template_note(origin: Origin, material: Material) -> str | None:
    if origin.data.format == "plain":
        return None
    names = (origin.teacher.model, origin.student.model)
    teacher = load_tokenizer(origin.teacher)
    return template_note(teacher, material.tokenizer, names, origin.data.system_prompt)


def _check_overlap(
    suite: SuiteSpec, leaves: Sequence[LeafTask], known: set[str], where: str
) -> set[str]:
    """The hashes of the suite's prompts.

    Raises:
        BadInputError: One of its documents asks what is in ``known``.
    """
    asked: set[str] = set()
    shared: list[str] = []
    for leaf in leaves:
        for prompt, texts in prompts(leaf):
            asked.add(prompt_hash(prompt))
            if known & {prompt_hash(text) for text in texts}:
                shared.append(prompt)
    if shared:
        raise BadInputError(
            f"expected prompts of its own, but {len(shared)} of the suite {suite.config.suite} are"
            f" also in {where}, for example {shared[0]!r:.120}: a score on them would measure"
            " memory. Remove them, or use other documents."
        )
    return asked
