"""One training job: a student, its sequences and a method in; a trained student out."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import torch

from sweeper.config.base import Scalar
from sweeper.config.models import ModelConfig
from sweeper.config.settings import Method, MethodSettings, resolve
from sweeper.distillation import trainers
from sweeper.distillation.checkpoints import Checkpoints
from sweeper.distillation.cost_meter import CostMeter, MeterCallback, PauseCallback, Report
from sweeper.distillation.data import batches
from sweeper.distillation.data.examples import TokenizedData, render_prompt
from sweeper.distillation.data.training_data import TrainingData
from sweeper.distillation.distributed import ALONE, Ranks
from sweeper.distillation.models.adapters import add_adapter, merge_adapter
from sweeper.distillation.models.loading import (
    computing_threads,
    end_token_ids,
    identity,
    load_model,
)
from sweeper.distillation.sharding import ShardedStudent
from sweeper.distillation.teacher import hidden_states, outputs
from sweeper.distillation.teacher.hidden_states import TeacherStates
from sweeper.foundation.cache import Cache
from sweeper.foundation.environment import library_versions
from sweeper.foundation.errors import BadInputError, DivergedError
from sweeper.records import Resources, StudyInputs, seeds

_TRIALS_TO_PAY = 4
"""Trials within which reading all sequences once has to cost less than reading them in each."""


def starting_student(
    origin: StudyInputs, material: TrainingData, place: Resources, report: Report = lambda *_: None
) -> Any:
    """The student that every arm starts from: the model itself, or its warm start.

    The warm start is trained once and kept in the cache.
    """
    student: ModelConfig = origin.student
    warm = origin.warm_start
    if origin.student.lora is None and student.dtype == "auto":
        student = student.model_copy(update={"dtype": "float32"})
    seed = seeds.student_seed(origin.seed)
    if warm is None:
        return load_model(student, place.device, seed=seed)
    changes = warm.model_dump(exclude_none=True, exclude={"method"})
    settings = resolve(origin.training, changes)
    determinants = {
        "student": identity(student),
        "lora": origin.student.lora.model_dump(mode="json") if origin.student.lora else None,
        "teacher": identity(origin.teacher) if warm.method == "seqkd" else None,
        "teacher_outputs": origin.teacher_outputs.model_dump() if warm.method == "seqkd" else None,
        "data": material.fingerprint,
        "template": str(material.tokenizer.chat_template),
        "method": warm.method,
        "settings": settings.model_dump(mode="json", exclude={"checkpoint_every"}),
        "seed": origin.seed,
        "device": place.device.partition(":")[0],
        "threads": origin.cache_threads,
        "versions": library_versions(),
    }

    def build(directory: Path) -> None:
        with computing_threads(origin.cache_threads):
            _train_warm_start(directory)

    def _train_warm_start(directory: Path) -> None:
        model = load_model(student, place.device, seed=seed)
        trained, _ = distil(
            origin,
            material,
            place,
            model=model,
            teacher=origin.teacher,
            method=warm.method,
            settings=settings,
            seed=seeds.warm_start_seed(origin.seed),
            report=report,
        )
        whole = merge_adapter(trained, student, place.device, seed)
        whole.save_pretrained(directory)
        material.tokenizer.save_pretrained(directory)

    def read(directory: Path) -> Any:
        start = ModelConfig(
            model=str(directory),
            dtype=student.dtype,
            quantization=student.quantization,
            trust_remote_code=student.trust_remote_code,
            init_kwargs=student.init_kwargs,
        )
        return load_model(start, place.device)

    return Cache(Path(origin.cache)).read("warm_starts", determinants, build, read)


def distil(
    origin: StudyInputs,
    material: TrainingData,
    place: Resources,
    *,
    model: Any,
    teacher: ModelConfig,
    method: Method,
    settings: MethodSettings,
    seed: int,
    lora: dict[str, Scalar] | None = None,
    report: Report = lambda *_: None,
    probe: Callable[[Any], float] | None = None,
    pause_at: Collection[int] = (),
    pause: Callable[[int, Any], bool] = lambda step, model: True,
    checkpoints: Checkpoints | None = None,
    ranks: Ranks = ALONE,
) -> tuple[Any, CostMeter]:
    """Train ``model`` by ``method``.

    Args:
        origin: The study's models, data and settings.
        material: Tokenizer and examples.
        place: Device, threads and the job's directory.
        model: The starting student; trained in place.
        teacher: The arm's teacher.
        method: Whose sequences and loss to use.
        settings: Training and method settings.
        seed: Of everything random in this job.
        lora: The arm's own values over the student's adapter.
        report: Called at every point of the training curve.
        probe: Says how far the student is from the teacher, asked a few times on the way.
        pause_at: The optimiser steps after which training waits.
        pause: What it waits for: takes the step and the student, and says whether to go on.
        checkpoints: Where the training is saved, and gone on with after an interruption.
        ranks: The processes that train it together, each from here on.

    Returns:
        The trained student, wrapped in its adapter if it has one, and what it cost.

    Raises:
        BadInputError: The sequences, models or settings cannot work together.
        DivergedError: The loss is not finite any more.
    """
    tokenizer = material.tokenizer
    data = training_sequences(material, place, teacher, method, settings)
    if origin.student.lora is not None:
        adapter_seed = seeds.adapter_seed(seed)
        model = add_adapter(model, origin.student.lora, lora or {}, adapter_seed)
    elif getattr(model, "is_quantized", False):
        message = "expected an adapter to train, because the student's weights are quantized"
        raise BadInputError(message, ("student", "lora"))
    meter = CostMeter(torch.cuda.synchronize if place.device.startswith("cuda") else lambda: None)
    # What the first process trains alone, a warm start, is in one piece.
    divided = ShardedStudent(model) if place.shard_student and ranks.size > 1 else None

    def whole(student: Any) -> Any:
        return student if divided is None else divided.whole()

    states: TeacherStates | None = None
    with tempfile.TemporaryDirectory(dir=place.directory, prefix=".trainer.") as output:
        options: dict[str, Any] = {
            "meter": meter,
            "model": model,
            "args": trainers.arguments(
                method,
                settings,
                output_dir=output,
                device=place.device,
                seed=seeds.data_order_seed(seed),
            ),
            "processing_class": tokenizer,
            "callbacks": [
                MeterCallback(meter, report, probe and (lambda model: probe(whole(model)))),
                PauseCallback(pause_at, lambda step, model: pause(step, whole(model))),
            ],
        }
        if trainers.uses_teacher(method):
            teacher_seed = seeds.teacher_seed(origin.seed)
            options["teacher_model"] = load_model(teacher, place.device, seed=teacher_seed)
            if settings.engine == "sweeper" and settings.lmbda < 1:
                with meter.timing("teacher"):
                    states = stored_teacher_states(
                        material,
                        data,
                        place,
                        teacher,
                        settings,
                        lambda: options["teacher_model"],
                    )
                # Where one has none, because others took their place, a divided teacher reads.
                if not all(ranks.gather(states is not None)):
                    states = None
        elif settings.disable_dropout:
            trainers.without_dropout(model)
        trainer = _make_trainer(
            method, settings, material, data, states, options, divided, seed, ranks, place
        )
        if not ranks.first:
            # As the trainer has seeded it, dropout would be the same in every process.
            torch.manual_seed(seeds.dropout_seed(seed, ranks.rank))
        if checkpoints is None:
            trainer.train()
        else:
            checkpoints.train(trainer, meter)
        trained = whole(trainer.model)
    _check_finite(trained)
    return trained, meter


def training_sequences(
    material: TrainingData,
    place: Resources,
    teacher: ModelConfig,
    method: Method,
    settings: MethodSettings,
) -> TokenizedData:
    """The sequences that ``method`` trains on: references, or the teacher's stored answers.

    Raises:
        BadInputError: The method needs references and the data have none.
    """
    if method == "seqkd" or settings.seq_kd:
        return outputs.tokens(material, teacher, place, settings.max_length)
    data = material.tokens(settings.max_length)
    needed = method != "gkd" or settings.lmbda < 1
    if needed and any(sequence.completion is None for sequence in data.sequences):
        raise BadInputError(
            f"{method} trains on reference answers here, but some rows have none"
            " (use seq_kd: true, lmbda: 1.0 or method seqkd)."
        )
    return data


def stored_teacher_states(
    material: TrainingData,
    data: TokenizedData,
    place: Resources,
    teacher: ModelConfig,
    settings: MethodSettings,
    load: Callable[[], Any],
    report: Callable[[int, int], None] = lambda done, total: None,
) -> TeacherStates | None:
    """The teacher's states on ``data``, if a few trials like this read it all.

    Args:
        material: Tokenizer and examples.
        data: The sequences of the trial.
        place: Where the trial runs.
        teacher: The arm's teacher.
        settings: Of the trial.
        load: Gives the teacher.
        report: Called with the number of sequences read and their total.
    """
    window = settings.per_device_train_batch_size * settings.gradient_accumulation_steps
    reads = settings.max_steps * window * place.processes * (1 - settings.lmbda)
    if reads * _TRIALS_TO_PAY < len(data.sequences):
        return None
    return hidden_states.get_or_compute(
        material.origin, teacher, data.sequences, place, load, report
    )


def _make_trainer(
    method: Method,
    settings: MethodSettings,
    material: TrainingData,
    data: TokenizedData,
    states: TeacherStates | None,
    options: dict[str, Any],
    divided: ShardedStudent | None,
    seed: int,
    ranks: Ranks,
    place: Resources,
) -> Any:
    tokenizer = options["processing_class"]
    if settings.engine == "trl":
        return _make_stock_trainer(method, material, data, options)
    options["ranks"] = ranks
    options["lengths"] = batches.lengths(data.sequences) if settings.length_bucketing else None
    options["sharded_student"] = divided
    if trainers.uses_teacher(method):
        return trainers.OnPolicyTrainer(
            settings=settings,
            end_ids=end_token_ids(options["model"], tokenizer),
            seed=seed,
            teacher_states=states,
            divide_teacher=place.shard_teacher and ranks.size > 1,
            train_dataset=batches.rows(data.sequences),
            **options,
        )
    dataset = batches.labelled_rows(data.sequences)
    return trainers.OfflineTrainer(train_dataset=dataset, **options)


def _make_stock_trainer(
    method: Method, material: TrainingData, data: TokenizedData, options: dict[str, Any]
) -> Any:
    from datasets import Dataset

    tokenizer = options["processing_class"]
    rows: list[dict[str, Any]] = []
    examples = (material.examples[index] for index in data.kept)
    for example, sequence in zip(examples, data.sequences, strict=True):
        answer = tokenizer.decode(sequence.completion or (), skip_special_tokens=True)
        turns = [*example.messages, {"role": "assistant", "content": answer}]
        if trainers.uses_teacher(method):
            rows.append({"messages": turns})
        else:
            prompt = render_prompt(example, tokenizer)
            whole = str(tokenizer.apply_chat_template(turns, tokenize=False))
            rows.append({"prompt": prompt, "completion": whole[len(prompt) :]})
    stock = trainers.StockGKDTrainer if trainers.uses_teacher(method) else trainers.StockSFTTrainer
    return stock(train_dataset=Dataset.from_list(rows), **options)


def _check_finite(model: Any) -> None:
    """The last steps may come after the last point of the curve."""
    for name, weights in model.named_parameters():
        if weights.requires_grad and not weights.isfinite().all():
            raise DivergedError(f"The weights {name} are not finite at the end: training diverged.")
