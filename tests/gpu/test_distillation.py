"""Losses and trainings on a GPU, against float64 and against the CPU."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from sweeper.distillation.divergence import Heads
from sweeper.distillation.models.lm_head import LMHead
from sweeper.records import Resources
from tests.support.training_jobs import make_study_inputs, train, untrained

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.filterwarnings("default"),
]

POSITIONS, WIDTH, VOCABULARY = 70, 48, 3001
BETAS = [0.0, 0.01, 0.5, 0.99, 1.0]


def divergence_of(
    device: str, dtype: torch.dtype, beta: float, autocast: torch.dtype | None = None
) -> list[torch.Tensor]:
    """The divergence of made-up states, and its gradients, in float64 on the CPU."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        heads = [nn.Linear(WIDTH, VOCABULARY, bias=False) for _ in range(2)]
        states = [torch.randn(POSITIONS, WIDTH) * 2 for _ in range(2)]
    # Both sides begin with the same numbers.
    rounded = torch.bfloat16
    for head in heads:
        head.weight.data = head.weight.data.to(rounded).to(device, dtype)
    heads[1].requires_grad_(False)
    ours, theirs = (part.to(rounded).to(device, dtype) for part in states)
    ours.requires_grad_()
    both = Heads(LMHead(None, head=heads[0]), LMHead(None, head=heads[1]))
    kind = torch.device(device).type
    with torch.autocast(kind, autocast or torch.bfloat16, enabled=autocast is not None):
        # Several chunks of positions.
        loss = both.divergence(ours, theirs, beta, budget=2 * 4 * VOCABULARY * 16)
    grads = torch.autograd.grad(loss, [ours, heads[0].weight])
    return [part.detach().cpu().double() for part in (loss, *grads)]


def off(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one - other).norm() / other.norm())


@pytest.mark.parametrize("beta", BETAS)
def test_the_divergence_in_float32_is_that_of_float64_on_the_cpu(beta: float) -> None:
    exact = divergence_of("cpu", torch.float64, beta)
    found = divergence_of("cuda", torch.float32, beta)
    assert [off(*pair) < 1e-4 for pair in zip(found, exact, strict=True)] == [True] * 3


@pytest.mark.parametrize("beta", BETAS)
def test_autocast_rounds_the_factors_and_not_the_logits(beta: float) -> None:
    exact = divergence_of("cpu", torch.float64, beta)
    found = divergence_of("cuda", torch.float32, beta, torch.bfloat16)
    # The numbers are of 16 bits already, so the loss is exact; gradients are rounded on their way.
    assert off(found[0], exact[0]) < 1e-4
    assert [off(*pair) < 1e-2 for pair in zip(found[1:], exact[1:], strict=True)] == [True] * 2


CASES: dict[str, dict[str, Any]] = {
    "sft": {"method": "sft"},
    "supervised_kd": {"method": "supervised_kd"},
    "gkd": {"method": "gkd", "lmbda": 0.0, "beta": 0.5, "gradient_checkpointing": True},
    "top_k": {"method": "gkd", "lmbda": 0.0, "teacher_signal": "top_k", "teacher_top_k": 4},
}


def curve(folder: Path, device: str, **settings: Any) -> tuple[Any, list[float]]:
    place = Resources(directory=str(folder), device=device, threads=1)
    settings = {"optim": "sgd", "learning_rate": 0.1, **settings}
    model, _, points = train(make_study_inputs(folder), place, settings.pop("method"), **settings)
    return model, [point["loss"] for point in points]


@pytest.mark.parametrize("case", CASES)
def test_a_training_in_float32_has_the_curve_of_the_cpu(tmp_path: Path, case: str) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    for folder in (here, there):
        folder.mkdir()
    model, losses = curve(here, "cuda:0", **CASES[case])
    assert {weights.device for weights in model.parameters()} == {torch.device("cuda:0")}
    assert losses == pytest.approx(curve(there, "cpu", **CASES[case])[1], rel=1e-3)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"optim": "adamw_torch_fused", "learning_rate": 1e-3},
        {"gradient_checkpointing": True},
        {"fp16": True, "bf16": False},
        {"engine": "trl"},
        {"engine": "trl-distillation"},
    ],
    ids=lambda changes: ", ".join(map(str, changes.values())) or "bf16",
)
def test_on_policy_training_in_16_bits_works(tmp_path: Path, changes: dict[str, Any]) -> None:
    settings = {"method": "gkd", "lmbda": 1.0, "beta": 0.5, "bf16": True, **changes}
    model, losses = curve(tmp_path, "cuda:0", **settings)
    assert len(losses) == 3 and all(math.isfinite(loss) and loss > 0 for loss in losses)
    # The trained weights stay in float32.
    assert {weights.dtype for weights in model.parameters()} == {torch.float32}


@pytest.mark.parametrize("lmbda", [0.0, 1.0])
def test_the_first_step_in_16_bits_trains_every_weight(tmp_path: Path, lmbda: float) -> None:
    assert untrained(tmp_path, "cuda:0", lmbda) == []
