"""The baselines of a study: the teacher or the starting student is scored."""

from __future__ import annotations

from typing import Any

from sweeper.config.settings import resolve
from sweeper.distillation.data.training_data import TrainingData, read_training_data
from sweeper.distillation.models.loading import end_token_ids, load_model
from sweeper.distillation.teacher import kl_probe, outputs
from sweeper.distillation.train import starting_student, stored_teacher_states, training_sequences
from sweeper.evaluation.tasks import load_tasks, prompts
from sweeper.execution.worker.progress import ProgressWriter
from sweeper.execution.worker.scoring import parameters, scored
from sweeper.records import PreparationSpec
from sweeper.records.seeds import teacher_seed


def score_baseline(spec: PreparationSpec, reporter: ProgressWriter) -> dict[str, Any]:
    """Score the step's model; return what the outcome records of it."""
    reporter.phase("read the data")
    material = read_training_data(spec.origin)
    place, origin = spec.place, spec.origin
    if spec.step in ("teacher", "test_teacher"):
        reporter.phase("load the teacher")
        model: Any = load_model(origin.teacher, place.device, seed=teacher_seed(origin.seed))
    else:
        if origin.warm_start:
            reporter.phase("warm start", 0, origin.warm_start.max_steps)
        model = starting_student(origin, material, place, reporter.train)
    reporter.phase("score")
    found: dict[str, Any] = {"model_parameters": parameters(model)}
    found["scores"] = scored(spec, model, material)
    if spec.step == "teacher":
        found |= _ask_teacher(spec, model, material, reporter)
    return found


def _ask_teacher(
    spec: PreparationSpec, model: Any, material: TrainingData, reporter: ProgressWriter
) -> dict[str, Any]:
    """Have everything of the teacher's that trials share in the cache."""
    origin, place = spec.origin, spec.place
    found: dict[str, Any] = {}
    if spec.needs_teacher_outputs:
        reporter.phase("teacher outputs", 0, len(material.examples))
        answers = outputs.get_or_compute(
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
        data = training_sequences(material, place, origin.teacher, "gkd", settings)
        stored_teacher_states(
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
    found["held_out"] = str(kl_probe.prepare(material, list(asked), place, lambda: model))
    return found
