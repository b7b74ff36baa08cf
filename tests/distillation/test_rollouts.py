from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import GenerationConfig

from sweeper.config.study import ModelConfig
from sweeper.distillation.models import end_token_ids, load_model, load_tokenizer
from sweeper.distillation.rollouts import Rollout, generate

TEACHER = ModelConfig(model="builtin/adder-teacher")


@pytest.fixture(scope="module")
def model() -> Any:
    return load_model(TEACHER, "cpu")


@pytest.fixture(scope="module")
def prompts() -> list[list[int]]:
    tokenizer = load_tokenizer(TEACHER)
    texts = ["1234+5678?", "1111+2222?", "9999+1?"]
    return [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]


def answers(model: Any, prompts: list[list[int]], **changes: Any) -> list[Rollout]:
    tokenizer = load_tokenizer(TEACHER)
    options: dict[str, Any] = {
        "temperature": 1.0,
        "max_new_tokens": 48,
        "end_ids": end_token_ids(model, tokenizer),
        "pad_id": tokenizer.pad_token_id,
        "seed": 7,
        "batch_size": 8,
    }
    return generate(model, prompts, **{**options, **changes})


def test_greedy_answers_are_the_argmax_of_each_step(model: Any, prompts: list[list[int]]) -> None:
    [answer] = answers(model, prompts[:1], temperature=0.0, max_new_tokens=12)
    tokens = list(prompts[0])
    for token in answer.tokens:
        assert int(model(torch.tensor([tokens])).logits[0, -1].argmax()) == token
        tokens.append(token)


def test_answers_keep_the_order_of_their_prompts(model: Any, prompts: list[list[int]]) -> None:
    together = answers(model, prompts, temperature=0.0)
    alone = [answers(model, [prompt], temperature=0.0)[0] for prompt in prompts]
    small_batches = answers(model, prompts, temperature=0.0, batch_size=2)
    assert together == alone == small_batches


def test_an_answer_ends_with_its_end_token_or_is_cut(model: Any, prompts: list[list[int]]) -> None:
    [whole] = answers(model, prompts[:1], temperature=0.0)
    [cut] = answers(model, prompts[:1], temperature=0.0, max_new_tokens=5)
    assert whole.finished
    assert whole.tokens[-1] == model.generation_config.eos_token_id
    assert (cut.finished, len(cut.tokens)) == (False, 5)
    assert cut.tokens == whole.tokens[:5]


def test_the_seed_alone_decides(model: Any, prompts: list[list[int]]) -> None:
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = answers(model, prompts, temperature=3.0)
    assert torch.equal(state, torch.get_rng_state())
    torch.manual_seed(2)
    assert answers(model, prompts, temperature=3.0) == first
    assert answers(model, prompts, temperature=3.0, seed=8) != first


def test_the_publishers_settings_are_set_aside_and_put_back(
    model: Any, prompts: list[list[int]]
) -> None:
    plain = answers(model, prompts, temperature=2.0)
    inherited = model.generation_config
    # With top_k 1 every sample would be the greedy answer.
    model.generation_config = GenerationConfig(
        do_sample=True, top_k=1, repetition_penalty=1.5, eos_token_id=1, pad_token_id=0
    )
    try:
        assert answers(model, prompts, temperature=2.0) == plain
        assert model.generation_config.top_k == 1
    finally:
        model.generation_config = inherited


def test_the_models_mode_is_put_back(model: Any, prompts: list[list[int]]) -> None:
    model.train()
    answers(model, prompts, max_new_tokens=2)
    assert model.training
    model.eval()
    answers(model, prompts, max_new_tokens=2)
    assert not model.training
