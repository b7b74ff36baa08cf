"""Scores of a model object on a suite, by lm-eval, with a score for every document."""

from __future__ import annotations

import math
import random
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from lm_eval.evaluator import evaluate
from transformers import PreTrainedTokenizerBase

from sweeper.config.base import ScoringDtype
from sweeper.config.suite import SuiteConfig
from sweeper.evaluation.computed import telling
from sweeper.evaluation.loaded_model import loaded_lm
from sweeper.evaluation.served_model import AnsweringModel, ServedLM
from sweeper.evaluation.tasks import FEWSHOT_SEED, LeafTask, in_chat, load_tasks
from sweeper.evaluation.values import read_value
from sweeper.records import Scores, SuiteSpec, TaskScore


@dataclass(frozen=True)
class DocumentScore:
    """Score of a document, for pairing with the same document of another trial."""

    task: str
    doc_id: int
    doc_hash: str
    score: float
    """Value of the metric; nats per byte for perplexities."""
    weight: float
    """Weight in the task's mean: 1, or the document's bytes for perplexities."""
    cluster: str
    """Label that documents of the task that belong together share."""
    share: float = 0.0
    """Factor of the score in the suite's mean: negative if the task's sign is flipped, 0 if the
    task is left out."""


@dataclass(frozen=True)
class Sample:
    """A prompt of a task, and the model's answer."""

    task: str
    doc_id: int
    prompt: str
    response: str
    target: str
    score: float


@dataclass(frozen=True)
class Evaluation:
    """Result of scoring a suite."""

    scores: Scores
    documents: tuple[DocumentScore, ...]
    samples: tuple[Sample, ...]
    signed: tuple[float, ...]
    """Scores of documents as the aggregate takes them: some signs flipped, some tasks left out."""


def score(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    suite: SuiteSpec,
    *,
    batch_size: int,
    chat: bool,
    end_ids: Sequence[int] = (),
    system_prompt: str | None = None,
    documents: int | None = None,
    samples: int = 0,
    allow_code: bool = False,
    dtype: ScoringDtype | None = None,
) -> Evaluation:
    """Score ``model`` on ``suite``, without disturbing it or any random state.

    ``model`` is loaded, or answers over a server. Both are asked the same, ``batch_size`` texts at
    a time. ``chat`` and ``system_prompt`` are those of ``in_chat``. By default a loaded model's own
    end tokens end an answer. ``documents`` is the number to score of each task, evenly spread (None
    scores all), ``samples`` the number of answers to keep of each. ``dtype`` is the declared
    precision, which the caller has put ``model`` into.

    Raises:
        BadInputError: A task is unknown, or its metric is not a number per document, or fails; or
            the server refuses a request.
        NoAnswerError: The server does not answer.
        OtherWeightsError: It has other weights than the model's.
    """
    started = time.perf_counter()
    config = suite.config
    templated, system = in_chat(config, chat=chat, system_prompt=system_prompt)
    options: dict[str, Any] = {
        "tokenizer": tokenizer,
        "batch_size": batch_size,
        # A template adds the begin token itself; plain prompts begin as the tokenizer does.
        "add_bos_token": False if templated else None,
    }
    served = isinstance(model, AnsweringModel)
    view = (
        ServedLM(model, end_ids=end_ids, **options)
        if served
        else loaded_lm(model, end_ids, dtype, options)
    )
    with _drawing_alike(), view as lm:
        loaded = load_tasks(suite, allow_code=allow_code, checked=True)
        leaves = [_thinned(leaf, documents) for leaf in loaded]
        results = evaluate(
            lm=lm,
            task_dict={
                "tasks": {
                    leaf.name: telling(leaf.name, leaf.task, leaf.metric.name) for leaf in leaves
                },
                "groups": {},
                "group_map": {},
            },
            samples={leaf.name: list(leaf.documents) for leaf in leaves},
            bootstrap_iters=0,
            log_samples=True,
            system_instruction=system,
            apply_chat_template=templated,
            fewshot_as_multiturn=templated,
            confirm_run_unsafe_code=allow_code,
        )
    scored: list[DocumentScore] = []
    kept: list[Sample] = []
    for leaf in leaves:
        for row in _rows(leaf, results["samples"][leaf.name]):
            document = _document(leaf, row)
            scored.append(document)
            if sum(sample.task == leaf.name for sample in kept) < samples:
                kept.append(_sample(leaf.name, row, document.score))
    tasks = tuple(_task_score(entry.task, leaves, scored) for entry in config.tasks)
    value, stderr, higher = aggregate(config, tasks)
    scores = Scores(
        suite=config.suite,
        suite_hash=suite.content_hash,
        score=value,
        stderr=stderr,
        higher_is_better=higher,
        tasks=tasks,
        seconds=time.perf_counter() - started,
        dtype=dtype,
        engine="vllm" if served else "transformers",
    )
    scored = _shared_out(scored, leaves, tasks, higher_is_better=higher)
    counted = (item for item in scored if item.share)
    signed = tuple(math.copysign(1.0, item.share) * item.score for item in counted)
    return Evaluation(scores, tuple(scored), tuple(kept), signed)


def _shared_out(
    documents: Sequence[DocumentScore],
    leaves: Sequence[LeafTask],
    tasks: Sequence[TaskScore],
    *,
    higher_is_better: bool,
) -> list[DocumentScore]:
    """Return the documents with their shares in the suite's weighted mean."""
    entry_of = {leaf.name: leaf.entry.task for leaf in leaves}
    totals: dict[str, float] = defaultdict(float)
    for document in documents:
        totals[entry_of[document.task]] += document.weight
    total_weight = sum(task.weight for task in tasks)
    shares = {
        task.task: math.copysign(
            task.weight / total_weight, 1 if task.higher_is_better == higher_is_better else -1
        )
        for task in tasks
    }
    return [
        replace(document, share=shares[entry] * document.weight / totals[entry])
        for document in documents
        for entry in [entry_of[document.task]]
    ]


def aggregate(config: SuiteConfig, tasks: Sequence[TaskScore]) -> tuple[float, float, bool]:
    """Return the suite's score, its standard error, and whether higher is better.

    If all tasks are lower-is-better, so is the suite; if only some are, their signs are flipped.
    Tasks of weight 0 do not count. Standard errors of tasks are taken as independent.
    """
    counted = [task for task in tasks if task.weight]
    higher = any(task.higher_is_better for task in counted)
    signed = [
        (task.score if task.higher_is_better == higher else -task.score, task.stderr, task.weight)
        for task in counted
    ]
    if config.aggregate == "minimum":
        worst = (min if higher else max)(signed)
        return worst[0], worst[1], higher
    total = sum(weight for _, _, weight in signed)
    value = sum(score * weight for score, _, weight in signed) / total
    variance = sum((stderr * weight / total) ** 2 for _, stderr, weight in signed)
    return value, math.sqrt(variance), higher


def mean_and_error(documents: Sequence[DocumentScore]) -> tuple[float, float]:
    """Return the weighted mean over documents and its standard error.

    With equal weights this is the mean and s / √n. Otherwise the mean is the ratio Σwx / Σw and its
    error that of the ratio estimator (Cochran, Sampling Techniques, 3rd ed., eq. 2.46).
    """
    weights = np.array([document.weight for document in documents])
    values = np.array([document.score for document in documents])
    total, count = weights.sum(), len(documents)
    mean = float((weights * values).sum() / total)
    if count < 2:
        return mean, 0.0
    residuals = weights * (values - mean)
    return mean, float(math.sqrt(count / (count - 1) * (residuals**2).sum()) / total)


def _thinned(leaf: LeafTask, most: int | None) -> LeafTask:
    """Return the task with at most so many documents, evenly spread."""
    count = len(leaf.documents)
    if most is None or count <= most:
        return leaf
    return replace(leaf, documents=tuple(leaf.documents[i * count // most] for i in range(most)))


def _rows(leaf: LeafTask, logged: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return lm-eval's rows of the filter that the metric is read from, by document."""
    rows = [row for row in logged if row["filter"] == leaf.filter]
    return sorted(rows, key=lambda row: int(row["doc_id"]))


def _document(leaf: LeafTask, row: dict[str, Any]) -> DocumentScore:
    """Read a document's score from lm-eval's row."""
    column = leaf.entry.cluster_by
    cluster = row["doc_hash"] if column is None else str(row["doc"][column])
    value, weight = read_value(leaf.name, leaf.metric, leaf.task, row)
    return DocumentScore(leaf.name, int(row["doc_id"]), row["doc_hash"], value, weight, cluster)


def _sample(task: str, row: dict[str, Any], value: float) -> Sample:
    """Read prompt and answer from lm-eval's row."""
    argument = row["arguments"][0]
    prompt = argument[0] if isinstance(argument, list | tuple) else argument
    response = row["filtered_resps"] if row["filter"] == "none" else row["resps"]
    while isinstance(response, list | tuple) and len(response) == 1:
        response = response[0]
    return Sample(task, int(row["doc_id"]), str(prompt), str(response), str(row["target"]), value)


def _task_score(
    name: str, leaves: Sequence[LeafTask], documents: Sequence[DocumentScore]
) -> TaskScore:
    """Return the score of a suite's entry over the documents of its tasks."""
    mine = [leaf for leaf in leaves if leaf.entry.task == name]
    names = {leaf.name for leaf in mine}
    scored = [document for document in documents if document.task in names]
    mean, stderr = mean_and_error(scored)
    metric = mine[0].metric
    return TaskScore(
        task=name,
        metric=metric.shown,
        score=mean,
        stderr=stderr,
        documents=len(scored),
        higher_is_better=metric.higher_is_better,
        weight=mine[0].entry.weight,
    )


@contextmanager
def _drawing_alike() -> Iterator[None]:
    """Have the block draw the same numbers each time; restore all random states after."""
    states = (random.getstate(), np.random.get_state())
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []  # type: ignore[no-untyped-call]
    with torch.random.fork_rng(devices=devices):
        _seed(devices)
        try:
            yield
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])


def _seed(devices: Sequence[int]) -> None:
    """Have tasks that sample draw the same numbers whenever a model is scored."""
    random.seed(FEWSHOT_SEED)
    np.random.seed(FEWSHOT_SEED)
    torch.default_generator.manual_seed(FEWSHOT_SEED)
    if devices:
        torch.cuda.manual_seed_all(FEWSHOT_SEED)
