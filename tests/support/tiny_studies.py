"""Tiny real models, and studies of the built-in pair that finish in seconds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT / "tests" / "data"

CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def make_model(
    directory: Path, *, layers: int, width: int, chat: bool = True, seed: int = 0
) -> str:
    """Write a tiny Llama with a byte-level tokenizer; a real model directory of ~100 KB."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    vocabulary = {token: index for index, token in enumerate([*special, *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|endoftext|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=special[1:],
        model_max_length=1024,
    )
    if chat:
        fast.chat_template = CHAT_TEMPLATE
    fast.save_pretrained(directory)
    config = LlamaConfig(
        vocab_size=len(vocabulary),
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=layers,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=1024,
        eos_token_id=0,
        bos_token_id=None,
        pad_token_id=0,
        tie_word_embeddings=True,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        LlamaForCausalLM(config).save_pretrained(directory)
    return str(directory)


def adder_study(**changes: Any) -> dict[str, Any]:
    """A study of the built-in pair in which a trial takes about a second."""
    study: dict[str, Any] = {
        "study": "tiny",
        "seed": 3,
        "trials": 2,
        "teacher": {"model": "builtin/adder-teacher"},
        "student": {"model": "builtin/adder-student"},
        "data": {"train": {"path": "builtin/addition", "limit": 24}},
        "training": {
            "max_steps": 4,
            "per_device_train_batch_size": 4,
            "learning_rate": 1e-3,
            "max_length": 96,
            "logging_steps": 2,
        },
        "teacher_outputs": {"max_new_tokens": 48},
        "arms": {
            "gkd": {
                "settings": {"max_new_tokens": 8},
                "search": {
                    "lmbda": {"type": "categorical", "choices": [0.0, 0.5, 1.0]},
                    "beta": {"type": "categorical", "choices": [0.0, 0.5, 1.0]},
                    "temperature": {"type": "float", "low": 0.3, "high": 1.0},
                },
            },
            "sft": {
                "search": {
                    "learning_rate": {"type": "float", "low": 1e-4, "high": 1e-2, "log": True}
                }
            },
        },
        "evaluation": {"selection": "selection.yaml", "test": "test.yaml", "samples": 2},
        "confirm": {"seeds": 0},
    }
    return {**study, **changes}


def adder_suite(name: str, first: int, end: int, **changes: Any) -> dict[str, Any]:
    """A suite over documents of the addition task."""
    task = {"task": "addition", "documents": [first, end], "metric": "exact_match", **changes}
    return {"suite": name, "task_paths": [str(ROOT / "eval_suites" / "tasks")], "tasks": [task]}


def write_yaml(path: Path, values: dict[str, Any]) -> Path:
    with path.open("w", encoding="utf-8") as file:
        YAML(typ="safe", pure=True).dump(values, file)
    return path
