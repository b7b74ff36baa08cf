"""A step outside the search: score the teacher or the starting student."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from typing import Any

from sweeper.config.scoring_engine import teacher_is_scored
from sweeper.config.settings import in_steps, resolve
from sweeper.distillation.cost_meter import CostMeter
from sweeper.distillation.data.training_data import (
    TrainingData,
    check_teacher,
    read_training_data,
)
from sweeper.distillation.models.loading import read_config, read_generation_config
from sweeper.distillation.served_training import judgement_to_store
from sweeper.distillation.start import starting_student, teacher_of_arm, written_start
from sweeper.distillation.teacher import kl_probe, outputs
from sweeper.distillation.teacher.shared_teacher import SharedTeacher
from sweeper.distillation.teacher.stored_judgement import BYTES_A_TOKEN
from sweeper.distillation.train import stored_teacher_states, training_sequences
from sweeper.evaluation.served_model import AnsweringModel
from sweeper.evaluation.tasks import load_tasks, prompts
from sweeper.execution.worker.judgement_checks import ask_for_most
from sweeper.execution.worker.progress import ProgressWriter
from sweeper.execution.worker.scoring import parameters, scored
from sweeper.foundation.errors import blaming
from sweeper.records import PreparationSpec
from sweeper.serving.reach import reach

NO_SCORE = (
    "the teacher answers over teacher.server and has no score: suites are scored on models that are"
    " loaded. Reports are without its line and without gap closed; arms are compared as ever"
)


def score_baseline(spec: PreparationSpec, progress: ProgressWriter) -> dict[str, Any]:
    """Score the model of the step, and return those parts of the outcome."""
    progress.phase("read the data")
    data = read_training_data(spec.origin)
    resources, inputs = spec.place, spec.origin
    of_arm = bool(spec.own_teacher)
    teacher = SharedTeacher(inputs, inputs.teacher, resources)
    if spec.step == "start":
        progress.phase("warm start" if inputs.warm_start else "write the student")
        written = written_start(data, resources, progress.train)
        return {"start_weights": str(written)}
    if spec.step == "answers":
        progress.phase("load the teacher")
        # What there is to say of them, the step ``teacher`` says.
        _share(spec, replace(teacher, model=teacher.load()), data, progress)
        return {}
    clock = CostMeter()
    if spec.step in ("teacher", "test_teacher") and inputs.teacher.server is not None:
        with clock.waiting("teacher"):
            answered = _ask_server(spec, teacher, data, progress)
        return {**answered, "cost": clock.cost()}
    if of_arm:
        with blaming("arms", spec.step.partition("@")[2]):
            own = teacher_of_arm(data, resources, spec.own_teacher)
            check_teacher(inputs, own, data.tokenizer)
        teacher = replace(teacher, config=own)
    if of_arm or spec.step in ("teacher", "test_teacher"):
        progress.phase("load the teacher")
        model = teacher.load()
        asked = data.asked_of(teacher.config)
    else:
        if inputs.warm_start:
            progress.phase("warm start", 0, inputs.warm_start.max_steps)
        model, asked = starting_student(data, resources, progress.train), data
    progress.phase("score")
    found: dict[str, Any] = {"model_parameters": parameters(model)}
    served = inputs.evaluation.engine == "vllm"
    with clock.waiting("student") if served else nullcontext():
        found["scores"] = scored(spec, model, asked, progress)
    found["cost"] = clock.cost()
    if of_arm or spec.step == "teacher":
        found |= _ask_teacher(spec, replace(teacher, model=model), data, progress)
    return found


def _ask_server(
    spec: PreparationSpec, teacher: SharedTeacher, data: TrainingData, progress: ProgressWriter
) -> dict[str, Any]:
    """Get what trials share of a teacher that is not loaded, and its score if it can be had."""
    config, evaluation = teacher.config, spec.origin.evaluation
    found: dict[str, Any] = {}
    if spec.step == "teacher":
        found = _answers(spec, teacher, data, progress)
        judged = _judgement(spec, teacher, data, progress) if spec.judged is not None else ()
        found = {"notes": (*found.get("notes", ()), *judged)}
    if not teacher_is_scored(config, evaluation):
        return {"notes": (*found.get("notes", ()), NO_SCORE)}
    progress.phase("score")
    model = AnsweringModel(
        read_config(config),
        read_generation_config(config),
        reach(config, spec.place.served_teacher),
    )
    return {**found, "scores": scored(spec, model, data.asked_of(config), progress)}


def _judgement(
    spec: PreparationSpec, teacher: SharedTeacher, data: TrainingData, progress: ProgressWriter
) -> tuple[str, ...]:
    """Make sure that the judgement can be had, and that what is stored of it is in the cache.

    Returns:
        Notes for the user.
    """
    assert spec.judged is not None
    phase, k, notes = "teacher's judgement", spec.judged.top_k, list[str]()
    progress.phase(phase)
    ask_for_most(spec.judged, teacher, data)
    signal = {"lmbda": 0.0, "teacher_signal": "top_k", "teacher_top_k": k}
    for own in spec.reads if k else ():
        settings = resolve(spec.origin.training, {**signal, "seq_kd": own})
        sequences = training_sequences(data, teacher, "gkd", settings)
        settings = in_steps(settings, len(sequences.sequences), spec.place.processes)
        judgement_to_store(
            teacher, sequences, settings, lambda done, total: progress.phase(phase, done, total)
        )
        size = sum(one.trained for one in sequences.sequences) * k * BYTES_A_TOKEN / 2**30
        if size > spec.origin.teacher_states_gib:
            notes.append(
                f"the teacher's judgement of {len(sequences.sequences):,} sequences takes"
                f" {size:.2g} GiB, more than compute.teacher_states_gib: every trial asks for it"
                " anew"
            )
    return tuple(notes)


def _answers(
    spec: PreparationSpec, teacher: SharedTeacher, data: TrainingData, progress: ProgressWriter
) -> dict[str, Any]:
    """Make sure that the teacher's answers are in the cache, if they are trained on."""
    if not spec.needs_teacher_outputs:
        return {}
    progress.phase("teacher outputs", 0, len(data.examples))
    outputs.get_or_compute(
        data, teacher, lambda done, total: progress.phase("teacher outputs", done, total)
    )
    notes = outputs.notes(data, teacher)
    return {"notes": notes} if notes else {}


def _ask_teacher(
    spec: PreparationSpec, loaded: SharedTeacher, data: TrainingData, progress: ProgressWriter
) -> dict[str, Any]:
    """Make sure that what trials share of the teacher is in the cache."""
    found = _share(spec, loaded, data, progress)
    if spec.own_teacher:
        return found  # All students are compared with the study's teacher.
    progress.phase("held-out sequences")
    allow_code = spec.origin.evaluation.allow_code_execution
    leaves = load_tasks(spec.suite, allow_code=allow_code, checked=True)
    asked = (text for leaf in leaves for text, _ in prompts(leaf))
    found["held_out"] = str(kl_probe.prepare(data, loaded, list(asked)))
    return found


def _share(
    spec: PreparationSpec, loaded: SharedTeacher, data: TrainingData, progress: ProgressWriter
) -> dict[str, Any]:
    """Make sure that the teacher's answers, and its states on what trials read, are in the cache.

    Another step may be computing them: then this waits.
    """
    inputs = spec.origin
    found = _answers(spec, loaded, data, progress)
    for own in spec.reads:
        progress.phase("teacher states")
        settings = resolve(inputs.training, {"lmbda": 0.0, "seq_kd": own})
        sequences = training_sequences(data, loaded, "gkd", settings)
        settings = in_steps(settings, len(sequences.sequences), spec.place.processes)
        stored_teacher_states(
            loaded,
            sequences,
            settings,
            lambda done, total: progress.phase("teacher states", done, total),
        )
    return found
