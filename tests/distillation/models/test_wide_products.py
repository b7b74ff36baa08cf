"""Products of bfloat16 numbers in float32, against those of autocast."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from sweeper.distillation.models.wide_products import WideProducts, multiplies_slowly
from sweeper.distillation.sampling.rollouts import generate


def tiny(*, bias: bool = False) -> Any:
    """Language model with random weights, large enough for its answers to differ."""
    config = LlamaConfig(
        vocab_size=40,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        attention_bias=bias,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = LlamaForCausalLM(config)
        for weights in model.parameters():
            nn.init.normal_(weights, std=0.3)
    return model


def graded(model: Any, enabled: bool = True) -> dict[str, torch.Tensor]:
    """Logits, and gradients of all weights, under autocast."""
    model.zero_grad()
    with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
        logits = model(input_ids=torch.arange(12).view(2, 6) + 3, use_cache=False).logits
    logits.float().square().mean().backward()
    return {"logits": logits.detach(), **{n: p.grad.clone() for n, p in model.named_parameters()}}


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("checkpointed", [False, True])
def test_products_are_those_of_autocast_but_for_rounding(bias: bool, checkpointed: bool) -> None:
    model = tiny(bias=bias).train()
    if checkpointed:
        model.activation_checkpointing_enable()
    expected = graded(model)
    with WideProducts().of(model):
        found = graded(model)
    exact = graded(model.double(), enabled=False)
    for name, values in found.items():
        assert values.dtype == expected[name].dtype, name
        size = exact[name].norm()
        error, allowed = ((each[name] - exact[name]).norm() / size for each in (found, expected))
        assert error <= 1.5 * allowed + 1e-3, name
        assert (values.double() - expected[name].double()).norm() <= 0.03 * size, name


def test_outside_of_autocast_nothing_changes() -> None:
    model = tiny()
    expected = graded(model, enabled=False)
    with WideProducts().of(model):
        found = graded(model, enabled=False)
    assert all(torch.equal(found[name], values) for name, values in expected.items())
    assert not any("forward" in vars(module) for module in model.modules())


def test_rollouts_with_weights_that_are_rounded_once() -> None:
    model, products = tiny(), WideProducts()
    options: dict[str, Any] = {"end_ids": [], "pad_id": 0, "seed": 0, "batch_size": 3}

    def sample() -> Any:
        prompts = [[3, 4, 5], [6, 7], [8]]
        return generate(model, prompts, temperature=1.0, max_new_tokens=8, **options)

    with products.of(model), torch.autocast("cpu", torch.bfloat16):
        expected = sample()
        with products.keeping_weights():
            assert sample() == expected
        # What was kept does not outlive the block.
        for weights in model.parameters():
            nn.init.normal_(weights.data, std=0.3)
        changed = sample()
        with products.keeping_weights():
            assert sample() == changed != expected


@pytest.mark.parametrize(
    ("isa", "slow"), [("AVX512_CORE", True), ("avx2", True), ("AVX512_CORE_BF16", None), ("", None)]
)
def test_a_limit_of_onednn_counts_as_a_cpu_without_the_instructions(
    isa: str, slow: bool | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA", raising=False)
    here = multiplies_slowly("cpu", torch.bfloat16)
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", isa)
    assert multiplies_slowly("cpu", torch.bfloat16) is (here if slow is None else slow)
    assert not multiplies_slowly("cpu", None)
    assert not multiplies_slowly("cuda", torch.bfloat16)


@pytest.mark.slow
def test_a_training_on_a_cpu_without_the_instructions() -> None:
    code = """
import sys, tempfile
from pathlib import Path
from sweeper.records import Resources
from tests.support.training_jobs import make_study_inputs, train
folder = Path(tempfile.mkdtemp())
place = Resources(directory=str(folder), device="cpu", threads=1)
_, meter, points = train(make_study_inputs(folder), place, "gkd", bf16=True, lmbda=1.0, beta=0.5)
print(*(point["loss"] for point in points), meter.totals["generated_tokens"])
"""
    losses = []
    for isa in ("AVX512_CORE", ""):
        environment = {**os.environ, "ONEDNN_MAX_CPU_ISA": isa}
        command = [sys.executable, "-c", code]
        ran = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        losses.append([float(word) for word in ran.stdout.split("\n")[-2].split()])
    assert losses[0] == pytest.approx(losses[1], rel=0.1)
