"""What every engine of rollouts promises, with ``generate`` as the measure."""

from __future__ import annotations

import gc
import random
import threading
from collections.abc import Sequence
from typing import Any

import peft
import pytest
import torch
from transformers import Gemma2Config, GenerationConfig, LlamaConfig, MistralConfig, Qwen3Config

from sweeper.distillation.sampling import continuous
from sweeper.distillation.sampling.continuous import generate_continuously, why_not
from sweeper.distillation.sampling.engines import Engine, engine_of
from sweeper.distillation.sampling.requests import Request
from sweeper.distillation.sampling.rollouts import Rollout, generate, generate_static
from sweeper.foundation.errors import DivergedError
from sweeper.records import Resources
from tests.support.sampled_models import (
    ENDS,
    LLAMA,
    MODELS,
    SIZES,
    adapted,
    assert_pairs_follow,
    fresh,
    random_prompts,
)


def on_cuda(
    model: Any, prompts: Sequence[Sequence[int]], *, end_ids: Sequence[int], **options: Any
) -> list[Rollout]:
    """What the engine ``sweeper`` does on CUDA, but for the graphs."""
    report = options.pop("report", lambda done: None)
    if not prompts:
        return []
    options = {"numbers": range(len(prompts)), **options, "ends": frozenset(end_ids)}
    return generate_static(model, Request(prompts, **options), graphs=False, report=report)


PLACE = Resources(directory=".", device="cpu", threads=1)
ENGINES: dict[str, Engine] = {
    "sweeper": engine_of("sweeper", PLACE, "float32"),
    "sweeper on CUDA": on_cuda,
    "transformers": engine_of("transformers", PLACE, "float32"),
}
OPTIONS: dict[str, Any] = {
    "temperature": 0.0,
    "max_new_tokens": 16,
    "end_ids": ENDS,
    "pad_id": 0,
    "seed": 7,
    "batch_size": 64,
}


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest) -> Engine:
    return ENGINES[request.param]


def sampled(engine: Engine, model: Any, prompts: Sequence[Sequence[int]], **changes: Any) -> Any:
    return engine(model, prompts, **{**OPTIONS, **changes})


def texts(rollouts: Sequence[Rollout]) -> list[tuple[tuple[int, ...], bool]]:
    return [(rollout.tokens, rollout.finished) for rollout in rollouts]


def log_probs(model: Any, prompt: Sequence[int], answer: Rollout) -> torch.Tensor:
    """Log-probabilities of an answer's tokens at the temperature of the engine's report."""
    tokens = torch.tensor(answer.tokens)
    with torch.no_grad():
        logits = model(torch.tensor([[*prompt, *answer.tokens]])).logits[0, len(prompt) - 1 : -1]
    every = (logits.float() / answer.log_probs_at).log_softmax(-1)
    return every.gather(-1, tokens[:, None])[:, 0]


@pytest.mark.parametrize(
    "kind",
    [
        "rotary positions",
        "learned positions",
        "eager attention",
        "an adapter",
        "a sliding window shorter than the texts",
    ],
)
@pytest.mark.parametrize("batch_size", [3, 64])
def test_greedy_answers_are_those_of_generate(engine: Engine, kind: str, batch_size: int) -> None:
    # Gemma2's attention caps its logits.
    windowed = kind.startswith("a sliding")
    model = fresh(MistralConfig(**SIZES, sliding_window=8)) if windowed else MODELS[kind]()
    prompts = random_prompts(12)
    expected = sampled(generate, model, prompts)
    assert len({len(rollout.tokens) for rollout in expected}) > 1
    assert texts(sampled(engine, model, prompts, batch_size=batch_size)) == texts(expected)


@pytest.mark.parametrize("temperature", [0.7, 1.6])
def test_samples_follow_the_models_distribution(engine: Engine, temperature: float) -> None:
    """First tokens, and second tokens after the commonest first one."""
    model = fresh(LlamaConfig(**{**SIZES, "vocab_size": 12}), spread=3.0)
    model.generation_config = GenerationConfig(do_sample=True, top_k=1, repetition_penalty=1.5)
    prompt = [5, 9, 11]
    options = {"max_new_tokens": 2, "end_ids": [], "batch_size": 1000}
    answers = sampled(engine, model, [prompt] * 4000, temperature=temperature, **options)
    pairs = [rollout.tokens for rollout in answers]
    assert_pairs_follow(model, prompt, temperature, pairs)


def test_the_seed_decides_and_global_states_stay(engine: Engine) -> None:
    model, prompts = fresh(LLAMA, spread=3.0), random_prompts(20)
    torch.manual_seed(1)
    states = torch.get_rng_state(), random.getstate()
    first = sampled(engine, model, prompts, temperature=1.0, batch_size=6)
    assert torch.equal(states[0], torch.get_rng_state())
    assert states[1] == random.getstate()
    torch.manual_seed(2)
    assert sampled(engine, model, prompts, temperature=1.0, batch_size=6) == first
    assert sampled(engine, model, prompts, temperature=1.0, batch_size=6, seed=8) != first
    shifted = range(20, 40)
    assert sampled(engine, model, prompts, temperature=1.0, batch_size=6, numbers=shifted) != first


def test_answers_end_with_an_end_token_or_are_cut(engine: Engine) -> None:
    model, prompts = fresh(LLAMA), random_prompts(8)
    plain = sampled(engine, model, prompts, end_ids=[])
    assert {(len(rollout.tokens), rollout.finished) for rollout in plain} == {(16, False)}
    first = plain[0].tokens[0]
    ended = sampled(engine, model, prompts, end_ids=[first, 3])
    assert (ended[0].tokens, ended[0].finished) == ((first,), True)
    cut = sampled(engine, model, prompts, end_ids=[first, 3], max_new_tokens=1)
    assert (cut[0].tokens, cut[0].finished) == ((first,), True)
    assert [rollout.tokens for rollout in cut] == [rollout.tokens[:1] for rollout in plain]
    assert sampled(engine, model, []) == []


def test_progress_is_reported(engine: Engine) -> None:
    done: list[int] = []
    sampled(engine, fresh(LLAMA), random_prompts(5), batch_size=2, report=done.append)
    assert done == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
def test_a_model_that_diverged_is_not_sampled_from(engine: Engine, wrong: float) -> None:
    model = fresh(LLAMA)
    model.get_output_embeddings().weight.data.fill_(wrong)
    with pytest.raises(DivergedError, match="while sampling"):
        sampled(engine, model, random_prompts(3), temperature=1.0)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_the_model_is_as_before(engine: Engine, attention: str) -> None:
    model = fresh(LlamaConfig(**SIZES, attn_implementation=attention))
    prompts = random_prompts(4)
    before, own = model.config.to_dict(), set(vars(model))
    text = torch.tensor([prompts[0]])
    logits = model(text).logits
    model.train()
    sampled(engine, model, prompts)
    assert model.training
    assert (model.config._attn_implementation, model.config.to_dict()) == (attention, before)
    assert set(vars(model)) == own
    assert torch.equal(model.eval()(text).logits, logits)


def test_autocast_is_the_callers(engine: Engine) -> None:
    # Its normalised keys stay in float32, where its values do not.
    model, prompts = fresh(Qwen3Config(**SIZES), spread=2.0), random_prompts(12)
    dtypes: list[Any] = []
    body = model.model.layers[0].mlp
    body.register_forward_hook(lambda module, args, output: dtypes.append(output.dtype))
    with torch.autocast("cpu", torch.bfloat16):
        answers = sampled(engine, model, prompts, temperature=1.0)
        assert set(dtypes) == {torch.bfloat16}
        for prompt, answer in zip(prompts, answers, strict=True):
            if answer.log_probs is not None:
                close = log_probs(model, prompt, answer) - torch.tensor(answer.log_probs)
                assert close.abs().max() < 0.2
    assert not torch.is_autocast_enabled("cpu")


@pytest.mark.parametrize("temperature", [0.0, 0.8, 1.0])
@pytest.mark.parametrize("wrap", [fresh, adapted])
def test_continuous_batching_reports_log_probabilities(wrap: Any, temperature: float) -> None:
    model = wrap(LLAMA)
    prompts = random_prompts(8)
    answers = sampled(generate_continuously, model, prompts, temperature=temperature)
    for prompt, answer in zip(prompts, answers, strict=True):
        assert answer.log_probs is not None
        assert answer.log_probs_at == (temperature or 1.0)
        expected = log_probs(model, prompt, answer)
        torch.testing.assert_close(torch.tensor(answer.log_probs), expected, atol=1e-4, rtol=1e-4)


def test_continuous_batching_reads_long_prompts_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(continuous, "_PROMPT_TOKENS", 16)
    model, prompts = fresh(LLAMA), random_prompts(6, longest=40)
    expected = sampled(generate, model, prompts)
    assert texts(sampled(generate_continuously, model, prompts, batch_size=2)) == texts(expected)


def test_an_error_in_the_librarys_thread_is_raised_here() -> None:
    model = fresh(LlamaConfig(**SIZES, attn_implementation="eager"))

    def fail(*args: Any) -> None:
        raise MemoryError("out of memory")

    hook = model.model.layers[1].register_forward_hook(fail)
    threads, frozen = threading.active_count(), gc.get_freeze_count()
    with pytest.raises(MemoryError, match="out of memory"):
        sampled(generate_continuously, model.train(), random_prompts(3))
    hook.remove()
    assert (threading.active_count(), gc.get_freeze_count()) == (threads, frozen)
    assert (model.training, model.config._attn_implementation) == (True, "eager")
    assert len(sampled(generate_continuously, model, random_prompts(3))) == 3


def test_models_that_continuous_batching_cannot_run_are_refused() -> None:
    assert why_not(fresh(LLAMA)) is None
    assert why_not(adapted(LLAMA)) is None
    capped = fresh(Gemma2Config(**SIZES))
    assert "caps" in str(why_not(capped))
    with pytest.raises(ValueError, match="caps"):
        sampled(generate_continuously, capped, random_prompts(2))
    assert "Mamba" in str(why_not(MODELS["a recurrent state"]()))
    flexible = fresh(LlamaConfig(**SIZES))
    flexible.config._attn_implementation = "flex_attention"
    assert "flex_attention" in str(why_not(flexible))


@pytest.mark.filterwarnings("ignore:Position ids are not supported:UserWarning")
def test_continuous_batching_takes_no_tuned_prompt() -> None:
    config = peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)
    assert "tuned prompt" in str(why_not(peft.get_peft_model(fresh(LLAMA), config)))
