"""How students are scored."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from sweeper.config.base import PositiveInt, ScoringDtype, Strict

ScoringEngine = Literal["transformers", "vllm"]


class EvaluationConfig(Strict):
    """How students are scored."""

    selection: Annotated[str, Field(min_length=1)]
    """The suite that chooses among trials."""
    test: Annotated[str, Field(min_length=1)] | None = None
    """The suite kept for the confirmation runs; the search never reads it."""
    dtype: ScoringDtype | None = None
    """The precision that every model is scored in, whatever it is trained in; by default the first
    that the study file names: `student.dtype`, `teacher.dtype`, `training.bf16` or `fp16`, else
    float32. None in the records of studies that began before this key was there."""
    engine: ScoringEngine = "transformers"
    """What computes answers and log-probabilities: the loaded model, or a vLLM server that has its
    weights. Scores of different engines are not compared."""
    batch_size: PositiveInt = 64
    """Documents scored at a time. On a GPU, texts whose likelihood is asked are as many as fit, at
    most 512 tokens for each of these."""
    samples: Annotated[int, Field(ge=0)] = 8
    """Answers kept per trial for reading."""
    allow_code_execution: bool = False
    """Let lm-eval tasks run code that the model wrote."""
    collapsed_score: float | None = None
    """A trial that scores this or worse counts as diverged: the sampler learns to keep away."""
