"""An exported student, as others load it: it has to be the trained one, and gets a score."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from sweeper.config.base import ScoringDtype, short
from sweeper.distillation.data.training_data import TrainingData, read_training_data
from sweeper.distillation.models.precision import computing_in
from sweeper.distillation.models.saving import load_saved
from sweeper.distillation.teacher import kl_probe
from sweeper.evaluation.tasks import load_tasks, prompts
from sweeper.execution.worker.progress import ProgressWriter
from sweeper.execution.worker.scoring import parameters, scored
from sweeper.foundation.errors import BadInputError
from sweeper.records import KeptStudent, PreparationSpec, TrialSpec

_LONGEST = 256
"""Number of tokens that are read of each text, from its end."""
_POSITIONS = 4
"""Number of positions compared in each text: a row of the vocabulary is large."""
_ROUNDING = {"float32": 1e-3}
_COARSE = 5e-2
"""Share of the logits' spread that rounding may change: of the sums of merged weights, and of what
is computed with them."""


def note_answers(
    spec: TrialSpec | PreparationSpec, keep: KeptStudent, model: Any, data: TrainingData
) -> None:
    """Keep what the trained student answers to the first prompts of the selection suite."""
    tokens = _tokens(spec, data)
    answers = log_probabilities(model.eval(), tokens, spec.origin.evaluation.dtype)
    tensors = {f"tokens.{number}": torch.tensor(ids) for number, ids in enumerate(tokens)}
    tensors |= {f"answers.{number}": values for number, values in enumerate(answers)}
    save_file(tensors, keep.reference)


def score_written(spec: PreparationSpec, progress: ProgressWriter) -> dict[str, Any]:
    """Load a saved student as a user would, compare it with the trained one, and score it.

    Raises:
        BadInputError: Its tokenizer or its answers differ from the trained student's.
    """
    assert spec.written is not None, "the step has a student to load"
    progress.phase("load")
    origin, kept = spec.origin, spec.written
    data = read_training_data(origin)
    dtype = origin.evaluation.dtype
    model, tokenizer = load_saved(kept, origin.student, spec.place.device, dtype)
    data = replace(data, tokenizer=tokenizer)
    reference = load_file(kept.reference)
    tokens = _tokens(spec, data)
    for number, ids in enumerate(tokens):
        if ids != (expected := reference[f"tokens.{number}"].tolist()):
            first = next(
                (i for i, (a, b) in enumerate(zip(ids, expected, strict=False)) if a != b), 0
            )
            raise BadInputError(
                "the tokenizer that was written reads the prompts otherwise than in training:"
                f" {short(tokenizer.decode(ids[first : first + 8]))}, where"
                f" {short(data.tokenizer.decode(expected[first : first + 8]))} was read"
            )
    answers = log_probabilities(model, tokens, dtype)
    trained = [reference[f"answers.{number}"] for number in range(len(answers))]
    with _hinting(kept, origin.student.lora is not None):
        check_same(answers, trained, dtype)
    progress.phase("score")
    return {"scores": scored(spec, model, data, progress), "model_parameters": parameters(model)}


@contextmanager
def _hinting(kept: KeptStudent, has_adapter: bool) -> Iterator[None]:
    """Add to an error of the block what else may be exported."""
    try:
        yield
    except BadInputError as error:
        if not has_adapter:
            raise
        remedy = "export it without --merged" if kept.merged else f"{kept.base} is not the model"
        remedy += "" if kept.merged else " that was below the adapter in training: use --merged"
        raise BadInputError(f"{error}; {remedy}") from None


def _tokens(spec: TrialSpec | PreparationSpec, data: TrainingData) -> list[list[int]]:
    """Return the texts that the students are compared on, as token ids."""
    leaves = load_tasks(spec.suite, allow_code=spec.origin.evaluation.allow_code_execution)
    texts = kl_probe.asked(data, (text for leaf in leaves for text, _ in prompts(leaf)))
    ids = [data.tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
    return [list(text[-_LONGEST:]) for text in ids if text]


@torch.no_grad()
def log_probabilities(
    model: Any, tokens: list[list[int]], dtype: ScoringDtype | None
) -> list[Tensor]:
    """Return the log-probabilities (positions × vocabulary) of what follows each text's end."""
    device = next(model.parameters()).device
    with computing_in(model, dtype):
        logits = [model(input_ids=torch.tensor([ids], device=device)).logits for ids in tokens]
    return [values[0, -_POSITIONS:].float().log_softmax(-1).cpu().contiguous() for values in logits]


def check_same(written: list[Tensor], trained: list[Tensor], dtype: ScoringDtype | None) -> None:
    """Check that two students' answers are the same but for rounding.

    Padding of the vocabulary, which only the written student may have, must have no probability.

    Raises:
        BadInputError: They differ, or the written student lacks tokens.
    """
    allowed = _ROUNDING.get(dtype or "", _COARSE)
    for found, expected in zip(written, trained, strict=True):
        size = expected.shape[-1]
        if found.shape[-1] < size:
            raise BadInputError(f"it has {found.shape[-1]} tokens, the trained student {size}")
        spread = (expected - expected.mean(-1, keepdim=True)).norm(dim=-1)
        share = ((found[:, :size] - expected).norm(dim=-1) / spread).max().item()
        if not share <= allowed:
            raise BadInputError(
                f"its next-token probabilities differ from the trained student's by {share:.2%} of"
                f" their spread; rounding explains {allowed:.1%}"
            )
