"""Rollouts on CUDA: graphs give what the same passes give without them, and leave no trace."""

from __future__ import annotations

import gc
import logging
from collections import Counter
from typing import Any

import pytest
import torch
from transformers import LlamaConfig

from sweeper.distillation.sampling import static_decoding
from sweeper.distillation.sampling.graphs import Graphs
from sweeper.distillation.sampling.requests import Request
from sweeper.distillation.sampling.rollouts import Rollout, generate, generate_static, way_of
from sweeper.distillation.sampling.static_models import why_not
from sweeper.foundation.errors import DivergedError
from tests.support.architectures import CONFIGS, EXPERTS, SLOW
from tests.support.cuda import needs_gpu
from tests.support.sampled_models import (
    ENDS,
    LLAMA,
    SIZES,
    adapted,
    assert_follows,
    fresh,
    random_prompts,
)

pytestmark = [pytest.mark.gpu, needs_gpu, pytest.mark.filterwarnings("default")]

FAMILIES = sorted(CONFIGS.keys() - SLOW.keys())


def request(prompts: list[list[int]], **changes: Any) -> Request:
    options: dict[str, Any] = {
        "numbers": range(len(prompts)),
        "temperature": 0.0,
        "max_new_tokens": 40,
        "ends": frozenset(ENDS),
        "pad_id": 0,
        "seed": 7,
        "batch_size": 24,
    }
    return Request(prompts, **{**options, **changes})


def ours(model: Any, prompts: list[list[int]], **changes: Any) -> list[Rollout]:
    options: dict[str, Any] = {
        "temperature": 0.0,
        "max_new_tokens": 40,
        "end_ids": ENDS,
        "pad_id": 0,
        "seed": 7,
        "batch_size": 24,
    }
    return generate(model, prompts, **{**options, **changes})


def share_of_equals(some: list[Rollout], others: list[Rollout]) -> float:
    pairs = zip(some, others, strict=True)
    return sum(one.tokens == other.tokens for one, other in pairs) / len(some)


@pytest.fixture
def problems(monkeypatch: pytest.MonkeyPatch) -> list[str | None]:
    """Why graphs were not used, by rollout."""
    seen: list[str | None] = []
    release = Graphs.release

    def note(self: Graphs) -> None:
        seen.append(self.problem)
        release(self)

    monkeypatch.setattr(Graphs, "release", note)
    return seen


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("make", [fresh, adapted])
def test_a_graph_gives_the_tokens_of_its_passes(
    make: Any, temperature: float, problems: list[str | None]
) -> None:
    model, prompts = make(LLAMA).cuda(), random_prompts(60)
    sampled = request(prompts, temperature=temperature)
    assert way_of(model, sampled.longest) == ("static", None)
    with_graphs = generate_static(model, sampled, graphs=True)
    assert problems == [None]
    assert with_graphs == generate_static(model, sampled, graphs=False)
    # Other shapes round otherwise.
    cpu = make(LLAMA)
    assert share_of_equals(with_graphs, ours(cpu, prompts, temperature=temperature)) > 0.8


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_is_captured(family: str, problems: list[str | None]) -> None:
    # torch multiplies groups of experts in bfloat16, and elsewhere loops over them.
    dtype = torch.bfloat16 if family in EXPERTS else torch.float32
    model = fresh(CONFIGS[family](), spread=4.0, dtype=dtype).cuda()
    sampled = request(random_prompts(30), max_new_tokens=20, batch_size=12)
    found = generate_static(model, sampled, graphs=True)
    assert found == generate_static(model, sampled, graphs=False)
    # Not every device multiplies groups.
    assert problems[0] is None or (family in EXPERTS and "wait" in problems[0]), problems[0]


@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma3", "lfm2"])
def test_graphs_work_in_the_callers_autocast(family: str, problems: list[str | None]) -> None:
    model = fresh(CONFIGS[family](), spread=2.0).cuda()
    sampled = request(random_prompts(30))
    with torch.autocast("cuda", torch.bfloat16):
        found = generate_static(model, sampled, graphs=True)
        again = generate_static(model, sampled, graphs=True)
        assert found == again == generate_static(model, sampled, graphs=False)
    assert problems == [None, None, "they are off"]
    # What autocast rounded is no longer in a graph's memory.
    text = torch.tensor([[9, 10, 11]], device="cuda")
    with torch.autocast("cuda", torch.bfloat16):
        assert model(text).logits.isfinite().all()


def test_new_weights_are_sampled_from() -> None:
    model, prompts = fresh(LLAMA).cuda(), random_prompts(12)
    first = ours(model, prompts)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.1).add_(0.05)
    changed = ours(model, prompts)
    assert changed != first
    assert share_of_equals(changed, ours(model.cpu(), prompts)) > 0.8


@pytest.mark.parametrize("vocabulary", [12, 1301])
def test_samples_follow_the_models_distribution(vocabulary: int) -> None:
    config = LlamaConfig(**{**SIZES, "vocab_size": vocabulary})
    model = fresh(config, spread=15.0 if vocabulary > 1000 else 3.0).cuda()
    prompt, temperature = [5, 9, 11], 0.7
    options = {"temperature": temperature, "max_new_tokens": 3, "end_ids": [], "batch_size": 1000}
    found = [rollout.tokens for rollout in ours(model, [prompt] * 4000, **options)]
    with torch.no_grad():
        logits = model(torch.tensor([prompt], device="cuda")).logits[0, -1]
        chances = (logits / temperature).softmax(-1).cpu()
        assert_follows(Counter(tokens[0] for tokens in found), chances)
        likeliest = int(chances.argmax())
        text = torch.tensor([[*prompt, likeliest]], device="cuda")
        logits = model(text).logits[0, -1]
    seconds = Counter(tokens[1] for tokens in found if tokens[0] == likeliest)
    assert_follows(seconds, (logits / temperature).softmax(-1).cpu())


def test_few_passes_are_launched_one_by_one() -> None:
    model, prompts = fresh(LLAMA).cuda(), [[9, 10, 11]] * 16
    launched = 0

    def count(*args: Any) -> None:
        nonlocal launched
        launched += 1

    hook = model.register_forward_pre_hook(count)
    ours(model, prompts, max_new_tokens=100, end_ids=[], batch_size=16)
    hook.remove()
    # The prompts, a rehearsal or two, and the capture.
    assert launched <= 4


def test_memory_and_random_numbers_are_left_as_they_were() -> None:
    model, prompts = fresh(LLAMA).cuda(), random_prompts(30)
    ours(model, prompts, temperature=1.0)
    gc.collect()
    torch.cuda.synchronize()
    before, state = torch.cuda.memory_allocated(), torch.cuda.get_rng_state()
    for seed in range(3):
        ours(model, prompts, seed=seed, temperature=1.0)
    gc.collect()
    assert torch.cuda.memory_allocated() == before
    assert torch.equal(torch.cuda.get_rng_state(), state)
    # Training goes on, with random numbers of its own.
    text = torch.tensor([prompts[0]], device="cuda")
    dropped = torch.nn.functional.dropout(model(text).logits, 0.5)
    dropped.sum().backward()


def test_a_model_that_waits_is_decoded_without_graphs(
    problems: list[str | None], caplog: pytest.LogCaptureFixture
) -> None:
    # This kind of position embedding looks at the positions in each pass.
    rope = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}
    config = LlamaConfig(**SIZES, max_position_embeddings=64, rope_parameters=rope)
    model = fresh(config).cuda()
    sampled = request(random_prompts(12))
    static_decoding.tell_once.cache_clear()
    with caplog.at_level(logging.WARNING):
        found = generate_static(model, sampled, graphs=True)
    assert found == generate_static(model, sampled, graphs=False)
    assert "makes the host wait" in str(problems[0])
    assert "without CUDA graphs" in caplog.text
    assert torch.cuda.get_sync_debug_mode() == 0


def test_a_pass_that_breaks_its_capture_leaves_the_device_sound(
    problems: list[str | None],
) -> None:
    model, prompts = fresh(LLAMA).cuda(), random_prompts(12)
    expected = ours(model, prompts)
    # Waits for the whole device, which a rehearsal may not notice.
    hook = model.register_forward_hook(lambda *args: torch.cuda.synchronize())
    assert ours(model, prompts) == expected
    hook.remove()
    assert problems[0] is None and problems[1] is not None
    assert ours(model, prompts) == expected
    assert problems[2] is None
    weights = torch.ones(8, device="cuda", requires_grad=True)
    torch.nn.functional.dropout(weights, 0.5).sum().backward()
    torch.cuda.synchronize()


@pytest.mark.parametrize("at_once", [True, False])
def test_a_model_that_diverged_is_told(at_once: bool) -> None:
    model, prompts = fresh(LLAMA).cuda(), random_prompts(3)
    if at_once:
        model.get_output_embeddings().weight.data.fill_(float("nan"))
    else:
        answers = ours(model, prompts, end_ids=[])
        read = {token for rollout in answers for token in rollout.tokens[:-1]}
        token = min(read - {token for prompt in prompts for token in prompt})
        model.get_input_embeddings().weight.data[token] = float("nan")
    with pytest.raises(DivergedError, match="while sampling"):
        ours(model, prompts, end_ids=[], temperature=0.0)
    # The device is sound, and so is the next model.
    assert len(ours(fresh(LLAMA).cuda(), prompts)) == 3


def test_the_device_of_the_model_counts() -> None:
    if torch.cuda.device_count() < 2:
        pytest.skip("there is one device")
    model, prompts = fresh(LLAMA).to("cuda:1"), random_prompts(12)
    assert why_not(model, 60) is None
    assert ours(model, prompts) == ours(model.to("cuda:0"), prompts)
