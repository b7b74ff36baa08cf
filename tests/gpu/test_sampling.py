"""Rollouts on a GPU, and weights that another process reads there."""

from __future__ import annotations

import importlib.util
from multiprocessing import get_context
from typing import Any

import pytest
import torch
from transformers import LlamaConfig

pytest.importorskip("scipy", reason="the models of these tests come with a test of chance")

from sweeper.config.rollouts import RolloutEngine
from sweeper.distillation.sampling.engine_test import SampledWindow, run_engine
from sweeper.distillation.sampling.engines import engine_of
from sweeper.distillation.sampling.served import handles
from sweeper.records import Resources
from tests.support import gpu_jobs
from tests.support.sampled_models import ENDS, SIZES, fresh, random_prompts

pytestmark = [pytest.mark.gpu, pytest.mark.filterwarnings("default")]

ENGINES: tuple[RolloutEngine, ...] = ("sweeper", "transformers")
VOCABULARY = 2000
"""More than is drawn from at once."""


def window(dtype: torch.dtype | None, attention: str, *, temperature: float) -> SampledWindow:
    """Prompts of many lengths, for a model that ends its answers at many."""
    sizes = {**SIZES, "vocab_size": VOCABULARY, "head_dim": 16, "hidden_size": 64}
    model = fresh(LlamaConfig(**sizes), spread=4.0).cuda()
    model.set_attn_implementation(attention)
    return SampledWindow(
        model=model,
        prompts=random_prompts(24, 40, VOCABULARY),
        temperature=temperature,
        max_new_tokens=48,
        end_ids=[*ENDS, *range(100, 160)],
        pad_id=0,
        seed=5,
        batch_size=10,
        autocast=torch.autocast("cuda", dtype or torch.bfloat16, enabled=dtype is not None),
    )


def engine_for(name: RolloutEngine) -> Any:
    return engine_of(name, Resources(directory=".", device="cuda:0", threads=1), None)


@pytest.mark.parametrize("temperature", [0.6, 1.0])
@pytest.mark.parametrize("dtype", [None, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("name", ENGINES)
def test_an_engine_samples_from_the_student(
    name: RolloutEngine, dtype: torch.dtype | None, temperature: float
) -> None:
    found = run_engine(
        name, engine_for(name), window(dtype, "sdpa", temperature=temperature), limit=0.05
    )
    assert found.problem is None
    assert found.tokens is not None and found.tokens > 24


@pytest.mark.skipif(
    importlib.util.find_spec("flash_attn") is None, reason="flash-attn is not installed"
)
@pytest.mark.parametrize("name", ENGINES)
def test_an_engine_samples_through_flash_attention(name: RolloutEngine) -> None:
    asked = window(torch.bfloat16, "flash_attention_2", temperature=1.0)
    assert run_engine(name, engine_for(name), asked, limit=0.05).problem is None


@pytest.mark.parametrize("name", ENGINES)
def test_a_seed_gives_the_same_answers_and_moves_no_other_random_numbers(
    name: RolloutEngine,
) -> None:
    asked, engine = window(None, "sdpa", temperature=1.0), engine_for(name)
    torch.manual_seed(3)
    states = torch.get_rng_state(), torch.cuda.get_rng_state()
    answers = [[one.tokens for one in asked.sample(engine, 24)] for _ in range(2)]
    assert answers[0] == answers[1]
    assert torch.equal(torch.get_rng_state(), states[0])
    assert torch.equal(torch.cuda.get_rng_state(), states[1])


def test_greedy_answers_are_those_of_the_cpu() -> None:
    asked, engine = window(None, "sdpa", temperature=0.0), engine_for("sweeper")
    found = [one.tokens for one in asked.sample(engine, 12)]
    asked.model.cpu()
    wanted = [one.tokens for one in asked.sample(engine, 12)]
    same = sum(one == other for one, other in zip(found, wanted, strict=True))
    # Two tokens may be equally likely but for rounding.
    assert same >= len(wanted) - 2


def test_another_process_reads_weights_where_they_lie() -> None:
    weights = {f"layer.{at}": torch.randn(300, 70, device="cuda") for at in range(5)}
    given = handles(weights)
    assert given["shapes"] == [[300, 70]] * 5 and given["dtype_names"] == ["float32"] * 5
    context = get_context("spawn")
    connection, other = context.Pipe()
    process = context.Process(target=gpu_jobs.read_weights, args=(other, given))
    process.start()
    other.close()
    sums = connection.recv()
    connection.send("done")
    process.join(60)
    assert process.exitcode == 0
    wanted = {name: float(part.double().sum()) for name, part in weights.items()}
    assert sums == pytest.approx(wanted, rel=1e-9)
