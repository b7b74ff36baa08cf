"""One training job: a student, its sequences and a method in; a trained student out."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Collection
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from sweeper.config.base import Scalar
from sweeper.config.models import ModelConfig
from sweeper.config.settings import Method, MethodSettings
from sweeper.distillation import trainers
from sweeper.distillation.checkpoints import Checkpoints
from sweeper.distillation.clocks import clock_of
from sweeper.distillation.cost_meter import CostMeter, MeterCallback, PauseCallback, Probe, Report
from sweeper.distillation.data import batches
from sweeper.distillation.data.examples import TokenizedData, render_prompt
from sweeper.distillation.data.left_out import check_stock
from sweeper.distillation.data.training_data import TrainingData
from sweeper.distillation.distributed import ALONE, ProcessGroup
from sweeper.distillation.models.adapters import (
    add_adapter,
)
from sweeper.distillation.models.answer_ends import end_token_ids
from sweeper.distillation.models.configuration import unchanged_configuration
from sweeper.distillation.models.lm_head import LMHead, head_of
from sweeper.distillation.models.tf32 import products
from sweeper.distillation.sampling.engines import engine_of
from sweeper.distillation.served_training import served_teacher_loss
from sweeper.distillation.sharding import ShardedStudent
from sweeper.distillation.teacher import hidden_states, outputs
from sweeper.distillation.teacher.hidden_states import TeacherStates
from sweeper.distillation.teacher.shared_teacher import SharedTeacher, pays_to_store
from sweeper.foundation.errors import BadInputError, DivergedError
from sweeper.records import Resources, seeds


@dataclass(frozen=True)
class TrainingJob:
    """One training: a student, what it learns from, and what watches it."""

    data: TrainingData
    """Tokenizer, examples and inputs of the study."""
    resources: Resources
    """Device, threads and directory of the job."""
    model: Any
    """Student at the start; trained in place."""
    teacher: ModelConfig
    """Teacher of the arm."""
    method: Method
    """Method that decides the sequences and the loss."""
    settings: MethodSettings
    """Training and method settings, everything resolved."""
    seed: int
    """Seed of everything random in the job."""
    lora: dict[str, Scalar] = field(default_factory=dict)
    """Arm's own values over the student's adapter."""
    report: Report = lambda *_: None
    """Callback for every point of the training curve."""
    probe: Probe | None = None
    """Measure of a student's distance from the teacher, taken a few times on the way."""
    lend_head: Callable[[Any], None] = lambda head: None
    """Callback for the head of the study's own teacher, where it is loaded: ``probe`` needs it."""
    pause_at: Collection[int] = ()
    """Optimiser steps after which training pauses."""
    pause: Callable[[int, Any], bool] = lambda step, model: True
    """Callback during a pause: takes the step and the student; False ends the training. A divided
    student is there in the first process only; others get None."""
    checkpoints: Checkpoints | None = None
    """Place that the training is saved to, and resumed from."""
    processes: ProcessGroup = ALONE
    """Processes that train the student together, one job each."""

    @property
    def shared_teacher(self) -> SharedTeacher:
        """Teacher of the arm, as trials share its answers and states."""
        return SharedTeacher(self.data.inputs, self.teacher, self.resources)


def distil(job: TrainingJob) -> tuple[Any, CostMeter]:
    """Train a student.

    Returns:
        The trained student, wrapped in its adapter if it has one, and the cost.

    Raises:
        BadInputError: The sequences, models or settings cannot work together.
        DivergedError: The loss is no longer finite.
    """
    settings, resources, processes = job.settings, job.resources, job.processes
    sequences = training_sequences(job.data, job.shared_teacher, job.method, settings)
    model = _adapted(job)
    meter = CostMeter(clock_of(resources.device), ("rollout", "teacher"))
    # A warm start, which the first process trains alone, is not divided.
    sharded = ShardedStudent(model) if resources.shard_student and processes.size > 1 else None

    def assembled(student: Any, *, keep: bool = True) -> Any:
        return student if sharded is None else sharded.assemble(keep=keep)

    def measured(student: Any) -> float | None:
        """Measure the student; a divided one in the first process, which has it whole."""
        assert probe is not None
        if sharded is None:
            found = probe(student)
            # Where it does not fit in one process, none reports it.
            return None if None in processes.gather(found) else found
        whole = assembled(student, keep=processes.first)
        return processes.of_first(probe(whole) if processes.first else None)

    loss: trainers.TokenLoss | None = None
    states: TeacherStates | None = None
    probe, pause = job.probe, job.pause
    models = [model]
    with (
        unchanged_configuration(model),
        tempfile.TemporaryDirectory(dir=resources.directory, prefix=".trainer.") as output,
        ExitStack() as served,
    ):
        options: dict[str, Any] = {
            "meter": meter,
            "model": model,
            "args": trainers.arguments(
                job.method,
                settings,
                output_dir=output,
                device=resources.device,
                seed=seeds.data_order_seed(job.seed),
            ),
            "processing_class": job.data.tokenizer,
            "callbacks": [
                MeterCallback(meter, job.report, measured if probe else None),
                PauseCallback(
                    meter,
                    job.pause_at,
                    lambda step, model: pause(step, assembled(model, keep=processes.first)),
                ),
            ],
        }
        if trainers.uses_teacher(job.method) and job.teacher.server is not None:
            loss = served.enter_context(
                served_teacher_loss(job.shared_teacher, sequences, settings, meter)
            )
        elif trainers.uses_teacher(job.method):
            teacher, states = _teacher(job, sequences, meter)
            options["teacher_model"] = teacher
            if isinstance(teacher, torch.nn.Module):
                models.append(teacher)
            if settings.engine == "sweeper" and job.teacher == job.data.inputs.teacher:
                job.lend_head(teacher.head if isinstance(teacher, LMHead) else head_of(teacher))
        if settings.disable_dropout:
            trainers.without_dropout(model)
        trainer = _make_trainer(job, sequences, loss, states, sharded, options)
        if not processes.first:
            # As the trainer has seeded it, dropout would be the same in every process.
            torch.manual_seed(seeds.dropout_seed(job.seed, processes.rank))
        with products(*models, device=resources.device, tf32=settings.tf32):
            if job.checkpoints is None:
                trainer.train()
            else:
                job.checkpoints.train(trainer, meter)
        trained = assembled(trainer.model)
    _check_finite(trained)
    return trained, meter


def _teacher(
    job: TrainingJob, sequences: TokenizedData, meter: CostMeter
) -> tuple[Any, TeacherStates | None]:
    """Return the arm's teacher, loaded, and its stored states on all sequences.

    Where the states are all that is read of it, the teacher is its head alone (an ``LMHead``).
    """
    settings, teacher = job.settings, job.shared_teacher
    if settings.engine != "sweeper" or settings.lmbda == 1:
        return teacher.load(), None
    with meter.timing("teacher"):
        states = stored_teacher_states(teacher, sequences, settings, compute=False)
    head = None
    if states is not None and states.head is not None and settings.lmbda == 0:
        head = states.head.load(teacher.config, job.resources.device)
    # A process may find no states, because others took their room: then all read the teacher, as a
    # sharded one demands.
    if all(job.processes.gather(head is not None)):
        return head, states
    teacher = replace(teacher, model=teacher.load())
    if states is None:
        with meter.timing("teacher"):
            states = stored_teacher_states(teacher, sequences, settings)
    return teacher.model, states if all(job.processes.gather(states is not None)) else None


def training_sequences(
    data: TrainingData, teacher: SharedTeacher, method: Method, settings: MethodSettings
) -> TokenizedData:
    """Return the sequences that ``method`` trains on: references, or the teacher's stored answers.

    Raises:
        BadInputError: The method needs references and the data have none.
    """
    if method == "seqkd" or settings.seq_kd:
        return outputs.tokens(data, teacher, settings.max_length)
    tokenized = data.tokens(settings.max_length)
    needed = method != "gkd" or settings.lmbda < 1
    if needed and any(sequence.completion is None for sequence in tokenized.sequences):
        raise BadInputError(
            f"{method} trains on reference answers here, but some rows have none"
            " (use seq_kd: true, lmbda: 1.0 or method seqkd)."
        )
    return tokenized


def stored_teacher_states(
    teacher: SharedTeacher,
    data: TokenizedData,
    settings: MethodSettings,
    report: Callable[[int, int], None] = lambda done, total: None,
    *,
    compute: bool = True,
) -> TeacherStates | None:
    """Return the teacher's states on ``data``, if a few trials like this read it all.

    Args:
        teacher: Teacher of the arm.
        data: Sequences of the trial.
        settings: Settings of the trial.
        report: Callback for the number of sequences read and their total.
        compute: False to return only states that are stored already.
    """
    if not pays_to_store(settings, len(data.sequences), teacher.resources.processes):
        return None
    autocast = trainers.autocast_dtype(settings)
    return hidden_states.get_or_compute(
        teacher,
        data.sequences,
        report,
        autocast=autocast,
        tf32=settings.tf32 and teacher.resources.device.startswith("cuda"),
        compute=compute,
    )


def _adapted(job: TrainingJob) -> Any:
    """Return the student with its adapter, if it has one.

    Raises:
        BadInputError: The student's weights are quantized, and there is no adapter.
    """
    lora = job.data.inputs.student.lora
    if lora is not None:
        return add_adapter(job.model, lora, job.lora, seeds.adapter_seed(job.seed))
    if getattr(job.model, "is_quantized", False):
        message = "expected an adapter to train, because the student's weights are quantized"
        raise BadInputError(message, ("student", "lora"))
    return job.model


def _make_trainer(
    job: TrainingJob,
    data: TokenizedData,
    loss: trainers.TokenLoss | None,
    states: TeacherStates | None,
    sharded: ShardedStudent | None,
    options: dict[str, Any],
) -> Any:
    """Build the trainer that the method and the engine ask for; ``loss`` is a served teacher's."""
    settings, processes = job.settings, job.processes
    if settings.engine != "sweeper":
        return _make_stock_trainer(job, data, options)
    teacher = options.pop("teacher_model", None)
    sampling = None
    if teacher is not None:
        loss = trainers.TeacherLoss(
            teacher,
            settings,
            stored=states,
            sharded=job.resources.shard_teacher
            and processes.size > 1
            and not isinstance(teacher, LMHead),
            autocast=trainers.autocast_dtype(options["args"]),
            timing=options["meter"].timing,
        )
    if loss is not None:
        sampling = trainers.Sampling(
            lmbda=settings.lmbda,
            temperature=settings.temperature,
            max_new_tokens=settings.max_new_tokens,
            batch_size=settings.rollout_batch_size,
            end_ids=tuple(end_token_ids(options["model"], job.data.tokenizer)),
            seed=job.seed,
        )
    return trainers.Distiller(
        processes=processes,
        loss=loss or trainers.ReferenceLoss(),
        sampling=sampling,
        engine=engine_of(
            job.data.inputs.rollout_engine,
            job.resources,
            job.data.inputs.evaluation.dtype,
            waiting=options["meter"].waiting,
        ),
        lengths=batches.lengths(data.sequences) if settings.length_bucketing else None,
        sharded_student=sharded,
        count_references=settings.stock_normalization,
        train_dataset=batches.Rows(data.sequences),
        **options,
    )


def _make_stock_trainer(job: TrainingJob, data: TokenizedData, options: dict[str, Any]) -> Any:
    """Build TRL's own trainer, on text."""
    from datasets import Dataset

    check_stock(job.data.examples)
    tokenizer = job.data.tokenizer
    rows: list[dict[str, Any]] = []
    examples = (job.data.examples[index] for index in data.kept)
    for example, sequence in zip(examples, data.sequences, strict=True):
        answer = tokenizer.decode(sequence.completion or (), skip_special_tokens=True)
        turns = [*example.messages, {"role": "assistant", "content": answer}]
        if job.settings.engine == "trl-distillation":
            rows.append({"prompt": [*example.messages]})
        elif trainers.uses_teacher(job.method):
            rows.append({"messages": turns})
        else:
            prompt = render_prompt(example, tokenizer)
            text = str(tokenizer.apply_chat_template(turns, tokenize=False))
            rows.append({"prompt": prompt, "completion": text[len(prompt) :]})
    stock: Any = trainers.StockSFTTrainer
    if job.settings.engine == "trl-distillation":
        from sweeper.distillation.trainers.trl_distillation import StockDistillationTrainer

        stock = StockDistillationTrainer
    elif trainers.uses_teacher(job.method):
        stock = trainers.StockGKDTrainer
    return stock(train_dataset=Dataset.from_list(rows), **options)


def _check_finite(model: Any) -> None:
    """Check the weights: the last steps may come after the last point of the curve.

    Raises:
        DivergedError: A trained weight is not finite.
    """
    for name, weights in model.named_parameters():
        if weights.requires_grad and not weights.isfinite().all():
            raise DivergedError(f"The weights {name} are not finite at the end: training diverged.")
