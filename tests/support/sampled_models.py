"""Small models of several kinds to sample from, and a test of what was sampled."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import peft
import torch
from scipy.stats import chisquare
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    GPT2Config,
    LlamaConfig,
    MambaConfig,
    PretrainedConfig,
)

VOCABULARY = 50
ENDS = list(range(3, 9))
SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "tie_word_embeddings": False,
}
LLAMA = LlamaConfig(**SIZES)


def fresh(config: PretrainedConfig, *, spread: float = 8.0, dtype: Any = torch.float32) -> Any:
    """A model with random weights that are large enough to make its answers differ."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config, dtype=dtype)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            parameter.data.mul_(spread)
    return model.eval()


def adapted(config: PretrainedConfig) -> Any:
    options = {"r": 4, "target_modules": "all-linear", "init_lora_weights": False}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return peft.get_peft_model(fresh(config), peft.LoraConfig(task_type="CAUSAL_LM", **options))


def random_prompts(count: int, longest: int = 14, vocabulary: int = VOCABULARY) -> list[list[int]]:
    draw = random.Random(0)
    lengths = [draw.randint(1, longest) for _ in range(count)]
    return [[draw.randrange(9, vocabulary) for _ in range(length)] for length in lengths]


MODELS = {
    "rotary positions": lambda: fresh(LLAMA),
    "learned positions": lambda: fresh(
        GPT2Config(vocab_size=VOCABULARY, n_embd=32, n_layer=2, n_head=4, n_positions=32)
    ),
    "eager attention": lambda: fresh(LlamaConfig(**SIZES, attn_implementation="eager")),
    "an adapter": lambda: adapted(LLAMA),
    "a sliding window longer than the texts": lambda: fresh(
        Gemma2Config(**SIZES, sliding_window=64)
    ),
    "a sliding window shorter than the texts": lambda: fresh(
        Gemma2Config(**SIZES, sliding_window=8)
    ),
    "a recurrent state": lambda: fresh(
        MambaConfig(vocab_size=VOCABULARY, hidden_size=32, num_hidden_layers=2, state_size=4)
    ),
}


def assert_follows(counts: Mapping[int, int], chances: torch.Tensor) -> None:
    """Fail if the counts are too unlikely under the chances; the rare tokens count as one."""
    total = sum(counts.values())
    expected = (chances.double() / chances.double().sum() * total).tolist()
    common = [token for token, number in enumerate(expected) if number >= 5]
    observed = [counts.get(token, 0) for token in common]
    wanted = [expected[token] for token in common]
    rest = total - sum(wanted)
    if rest >= 1:
        observed.append(total - sum(observed))
        wanted.append(rest)
    else:
        wanted = [number * sum(observed) / sum(wanted) for number in wanted]
    assert len(wanted) > 3
    assert chisquare(observed, wanted).pvalue > 1e-3


def assert_pairs_follow(
    model: Any, prompt: list[int], temperature: float, pairs: Sequence[tuple[int, ...]]
) -> None:
    """First tokens, and second tokens after the likeliest first one, are the model's own."""
    with torch.no_grad():
        chances = (model(torch.tensor([prompt])).logits[0, -1] / temperature).softmax(-1)
        assert_follows(Counter(first for first, _ in pairs), chances)
        likeliest = int(chances.argmax())
        logits = model(torch.tensor([[*prompt, likeliest]])).logits[0, -1]
    seconds = Counter(second for first, second in pairs if first == likeliest)
    assert_follows(seconds, (logits / temperature).softmax(-1))
