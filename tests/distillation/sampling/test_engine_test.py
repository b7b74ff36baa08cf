"""The test of an engine: what is not the student's own distribution is left out."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any

import pytest
import torch
from transformers import LlamaConfig

from sweeper.distillation.sampling.continuous import generate_continuously
from sweeper.distillation.sampling.engine_test import SampledWindow, run_engine
from sweeper.distillation.sampling.engines import Engine
from sweeper.distillation.sampling.rollouts import Rollout, generate
from sweeper.foundation.errors import DivergedError
from tests.support.sampled_models import ENDS, SIZES, adapted, fresh, random_prompts

MODEL = LlamaConfig(**SIZES)


def window(model: Any, autocast: AbstractContextManager[Any] | None = None) -> SampledWindow:
    return SampledWindow(
        model=model,
        prompts=random_prompts(24),
        temperature=0.8,
        max_new_tokens=12,
        end_ids=ENDS,
        pad_id=0,
        seed=3,
        batch_size=16,
        autocast=autocast or nullcontext(),
    )


def changed(**changes: Any) -> Engine:
    """``generate`` with other arguments than it is given."""

    def engine(model: Any, prompts: Sequence[Sequence[int]], **options: Any) -> list[Rollout]:
        return generate(model, prompts, **{**options, **changes})

    return engine


def altered(**values: Any) -> Engine:
    """``generate_continuously`` with something else in its answers."""

    def engine(model: Any, prompts: Sequence[Sequence[int]], **options: Any) -> list[Rollout]:
        found = generate_continuously(model, prompts, **options)
        return [replace(r, **{k: v(r) for k, v in values.items()}) for r in found]

    return engine


@pytest.mark.parametrize("make", [fresh, adapted])
@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("engine", [generate, generate_continuously])
def test_engines_of_the_students_distribution_pass(
    make: Any, autocast: bool, engine: Engine
) -> None:
    precision = torch.autocast("cpu", torch.bfloat16, enabled=autocast)
    limit = 0.05 if autocast else 1e-3
    found = run_engine("sweeper", engine, window(make(MODEL), precision), limit=limit)
    assert found.problem is None
    assert found.tokens_per_second is not None and found.tokens_per_second > 0
    if engine is generate_continuously:
        assert found.logprob_diff is not None and found.logprob_diff < limit
    else:
        assert found.logprob_diff is None


@pytest.mark.parametrize(
    ("engine", "problem"),
    [
        (changed(temperature=0.0), "do not follow"),
        (changed(temperature=0.3), "do not follow"),
        (changed(temperature=2.5), "do not follow"),
        (altered(log_probs=lambda r: tuple(v - 0.1 for v in r.log_probs)), "by 0.1 nats a token"),
        (altered(tokens=lambda r: r.tokens[:-1]), "do not end"),
        (altered(finished=lambda r: not r.finished), "do not end"),
        (changed(end_ids=[3]), "do not end"),
        (changed(max_new_tokens=13), "do not end"),
        (lambda model, prompts, **options: [], "0 answers to 24 prompts"),
    ],
)
def test_other_engines_are_left_out(engine: Engine, problem: str) -> None:
    found = run_engine("vllm", engine, window(fresh(MODEL)), limit=1e-3)
    assert found.problem is not None and problem in found.problem


def test_another_students_answers_are_left_out() -> None:
    other = fresh(LlamaConfig(**{**SIZES, "num_hidden_layers": 1}))

    def engine(model: Any, prompts: Sequence[Sequence[int]], **options: Any) -> list[Rollout]:
        return generate(other, prompts, **options)

    found = run_engine("vllm", engine, window(fresh(MODEL)), limit=1e-3)
    assert found.problem is not None and "do not follow" in found.problem


def test_a_student_without_a_distribution_is_no_engines_fault() -> None:
    model = fresh(MODEL)
    model.get_output_embeddings().weight.data.fill_(float("nan"))
    with pytest.raises(DivergedError):
        run_engine("sweeper", generate, window(model), limit=1e-3)
