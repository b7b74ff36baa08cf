"""A model's score on a suite, as every job takes it."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from sweeper.distillation.data.training_data import TrainingData
from sweeper.distillation.models.answer_ends import end_token_ids
from sweeper.distillation.models.precision import computing_in
from sweeper.evaluation.scoring import Evaluation, score
from sweeper.evaluation.served_model import AnsweringModel
from sweeper.execution.worker.out_of_memory import in_smaller_batches
from sweeper.execution.worker.progress import ProgressWriter
from sweeper.execution.worker.served_weights import with_weights_served
from sweeper.foundation.errors import DivergedError
from sweeper.foundation.files import write_text_atomically
from sweeper.records import PreparationSpec, Scores, SuiteSpec, TrialSpec
from sweeper.records.layout import JobPaths


def scored(
    spec: TrialSpec | PreparationSpec, model: Any, material: TrainingData, progress: ProgressWriter
) -> Scores:
    """Score ``model`` on the whole selection suite, and write its answers next to the outcome.

    Raises:
        DivergedError: A score is no number.
    """
    samples = spec.origin.evaluation.samples
    found = evaluate(spec, model, material, spec.suite, progress, samples=samples)
    paths = JobPaths(Path(spec.place.directory))
    write_text_atomically(paths.documents, _lines(found.documents))
    write_text_atomically(paths.samples, _lines(found.samples))
    return found.scores


def tested(
    spec: TrialSpec,
    suite: SuiteSpec,
    model: Any,
    material: TrainingData,
    progress: ProgressWriter,
) -> Scores:
    """Score ``model`` on the test suite; no answers are kept, so that nobody learns from them.

    Raises:
        DivergedError: A score is no number.
    """
    found = evaluate(spec, model, material, suite, progress)
    paths = JobPaths(Path(spec.place.directory))
    write_text_atomically(paths.test_documents, _lines(found.documents))
    return found.scores


def evaluate(
    spec: TrialSpec | PreparationSpec,
    model: Any,
    material: TrainingData,
    suite: SuiteSpec,
    progress: ProgressWriter,
    *,
    documents: int | None = None,
    samples: int = 0,
) -> Evaluation:
    """Score ``model`` on ``suite``, in the study's declared precision, by its engine.

    Where memory runs out, the model is scored again with half as many documents at a time, down to
    one; the scores record with how many. With ``evaluation.engine: vllm`` the server of the job's
    device gets the weights, and answers in the model's place.

    Args:
        spec: The job's.
        model: The model, loaded or behind a server.
        material: The data, for its tokenizer.
        suite: The suite.
        progress: Progress of the job, which reports that the model is scored again.
        documents: Number of each task's documents, from the first; None: all that are named.
        samples: Number of answers to keep.

    Raises:
        DivergedError: A score is no number, or the weights are none.
        NoAnswerError: The server does not answer.
    """
    evaluation = spec.origin.evaluation

    def attempt(model: Any, size: int) -> Evaluation:
        return score(
            model,
            material.tokenizer,
            suite,
            batch_size=size,
            chat=material.chat,
            end_ids=end_token_ids(model, material.tokenizer),
            system_prompt=spec.origin.data.system_prompt,
            documents=documents,
            samples=samples,
            allow_code=evaluation.allow_code_execution,
            dtype=evaluation.dtype,
        )

    def attempt_loaded(size: int) -> Evaluation:
        if size < evaluation.batch_size:
            progress.phase(progress.phase_name)
        with computing_in(model, evaluation.dtype):
            return attempt(model, size)

    size = evaluation.batch_size
    if isinstance(model, AnsweringModel):
        found = attempt(model, size)
    elif evaluation.engine == "vllm":
        found = with_weights_served(
            spec.place, model, evaluation, lambda served: attempt(served, size)
        )
    else:
        found, size = in_smaller_batches(attempt_loaded, size, "the model is scored")
    if size < evaluation.batch_size:
        scores = found.scores.model_copy(update={"batch_size": size})
        found = replace(found, scores=scores)
    for task in found.scores.tasks:
        if not math.isfinite(task.score) or not math.isfinite(task.stderr):
            reason = "the model diverged"
            if evaluation.dtype == "float16":
                reason += ", or exceeds float16; evaluation.dtype: bfloat16 has float32's range"
            raise DivergedError(f"The score of {task.task} is {task.score}: {reason}.")
    return found


def check_collapse(scores: Scores, limit: float | None) -> None:
    """Check a score against the study's own limit for a model that is broken.

    Raises:
        DivergedError: The score is ``limit`` or worse.
    """
    if limit is None:
        return
    if scores.score <= limit if scores.higher_is_better else scores.score >= limit:
        raise DivergedError(
            f"The score is {scores.score:.4g}, no better than evaluation.collapsed_score"
            f" ({limit:g}): the model collapsed."
        )


def _lines(rows: Iterable[Any]) -> str:
    return "".join(json.dumps(asdict(row), ensure_ascii=False) + "\n" for row in rows)


def parameters(model: Any) -> int:
    """Return how many parameters a model has."""
    return sum(parameter.numel() for parameter in model.parameters())
