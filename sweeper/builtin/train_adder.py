"""Train the addition teacher that ships with the package, and write the student's empty shape.

``python -m sweeper.builtin.train_adder`` writes both model folders again; ``--evaluate`` measures
the shipped teacher on the test split. One seed and one thread give one model.
"""

from __future__ import annotations

import argparse
import math
import time
from pathlib import Path
from random import Random

import torch
from safetensors.torch import save_file
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    AutoTokenizer,
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

from sweeper.builtin import addition, model_directory

PAD, EOS, UNKNOWN = "<pad>", "<eos>", "<unk>"
CHARACTERS = "0123456789+=;#?"
VOCABULARY = {token: index for index, token in enumerate([PAD, EOS, UNKNOWN, *CHARACTERS])}

MAX_POSITIONS = 128
MAX_NEW_TOKENS = 48
"""An answer has at most 42 characters, so this is enough for it and its end token."""

CHAT_TEMPLATE = (
    "{% for message in messages %}{{ message['content'] }}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}{% endfor %}"
)
"""The identity, so that a prompt in chat form is the same text as the evaluation's plain prompt."""


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Return a tokenizer with one token a character, which adds none of its own when encoding."""
    tokenizer = Tokenizer(models.WordLevel(VOCABULARY, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), behavior="isolated")
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer,
        eos_token=EOS,
        pad_token=PAD,
        unk_token=UNKNOWN,
        padding_side="left",
        clean_up_tokenization_spaces=False,
        model_max_length=MAX_POSITIONS,
        chat_template=CHAT_TEMPLATE,
    )


def build_config(layers: int, width: int) -> LlamaConfig:
    """Return the shape of a Llama with ``layers`` layers, hidden size ``width`` and four heads."""
    return LlamaConfig(
        architectures=["LlamaForCausalLM"],
        vocab_size=len(VOCABULARY),
        hidden_size=width,
        intermediate_size=3 * width,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=MAX_POSITIONS,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=VOCABULARY[EOS],
        pad_token_id=VOCABULARY[PAD],
        # The weights are stored in float16 for their size; a CPU computes in float32.
        dtype="float32",
    )


TEACHER = build_config(layers=4, width=128)
STUDENT = build_config(layers=2, width=96)


def encode(
    tokenizer: PreTrainedTokenizerBase, rows: list[dict[str, str]]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return token ids and labels for next-token training, padded on the right.

    Returns:
        Two int64 tensors of shape [rows, longest]; labels are -100 on the question and on padding.
    """
    prompt_length = len(rows[0]["question"])
    texts = [row["question"] + row["answer"] + EOS for row in rows]
    batch = tokenizer(texts, return_tensors="pt", padding=True, padding_side="right")
    ids: torch.Tensor = batch["input_ids"]
    labels = ids.masked_fill(batch["attention_mask"] == 0, -100)
    labels[:, :prompt_length] = -100
    return ids, labels


def train(
    steps: int, batch_size: int, learning_rate: float, seed: int
) -> tuple[LlamaForCausalLM, PreTrainedTokenizerFast]:
    """Train a teacher from a seeded random start on problems of the ``teacher`` split.

    Args:
        steps: Number of optimiser steps.
        batch_size: Problems a step; every problem is drawn once before any is drawn twice.
        learning_rate: Peak of a warm-up of 50 steps and a cosine down to zero.
        seed: Seed of the weights and of the order of the problems.
    """
    tokenizer = build_tokenizer()
    torch.manual_seed(seed)
    model = LlamaForCausalLM(TEACHER)
    rows = addition.problems("teacher")
    Random(seed).shuffle(rows)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=learning_rate, betas=(0.9, 0.98), weight_decay=0.01
    )
    warmup = min(50, steps)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: (
            (step + 1) / warmup
            if step < warmup
            else 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))
        ),
    )
    model.train()
    started = time.monotonic()
    for step in range(steps):
        start = step * batch_size
        batch = [rows[index % len(rows)] for index in range(start, start + batch_size)]
        ids, labels = encode(tokenizer, batch)
        loss = model(input_ids=ids, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if (step + 1) % 100 == 0:
            seconds = time.monotonic() - started
            print(f"step {step + 1}/{steps}  loss {loss.item():.4f}  {seconds:.0f} s", flush=True)
    return model, tokenizer


@torch.no_grad()
def accuracy(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerBase,
    rows: list[dict[str, str]],
    batch_size: int = 200,
) -> float:
    """Return the share of rows, in [0, 1], whose whole greedy answer equals the reference."""
    model.eval()  # type: ignore[no-untyped-call]
    correct = 0
    for start in range(0, len(rows), batch_size):
        batch = rows[start : start + batch_size]
        # All questions have the same length, so there is no padding to mask.
        prompts = tokenizer([row["question"] for row in batch], return_tensors="pt")
        output = model.generate(  # type: ignore[misc]
            **prompts, do_sample=False, max_new_tokens=MAX_NEW_TOKENS
        )
        answers = output[:, prompts["input_ids"].shape[1] :]
        texts = tokenizer.batch_decode(answers, skip_special_tokens=True)
        correct += sum(text == row["answer"] for text, row in zip(texts, batch, strict=True))
    return correct / len(rows)


def write_shape(config: LlamaConfig, tokenizer: PreTrainedTokenizerBase, directory: Path) -> None:
    """Write everything that ``from_pretrained`` needs except the weights."""
    directory.mkdir(parents=True, exist_ok=True)
    config.save_pretrained(directory)
    GenerationConfig(  # type: ignore[no-untyped-call]
        do_sample=False, eos_token_id=config.eos_token_id, pad_token_id=config.pad_token_id
    ).save_pretrained(directory)
    tokenizer.save_pretrained(directory)


def write_weights(model: LlamaForCausalLM, directory: Path) -> None:
    """Write the weights in float16, without the output head, which is the embedding again."""
    weights = {
        name: tensor.to(torch.float16).contiguous()
        for name, tensor in model.state_dict().items()
        if name != "lm_head.weight"
    }
    file = directory / "model.safetensors"
    save_file(weights, file, metadata={"format": "pt"})
    file.chmod(0o644)


def evaluate(directory: Path, split: str = "test") -> float:
    """Return the accuracy of a written model, loaded as any user would load it."""
    model = LlamaForCausalLM.from_pretrained(directory)
    tokenizer = AutoTokenizer.from_pretrained(directory)
    return accuracy(model, tokenizer, addition.problems(split))


def main() -> None:
    """Train the teacher and write both folders, or measure the teacher that is there."""
    parser = argparse.ArgumentParser(prog="python -m sweeper.builtin.train_adder")
    parser.add_argument("--evaluate", action="store_true", help="measure the shipped teacher")
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--teacher-directory", type=Path, default=model_directory("adder-teacher"))
    parser.add_argument("--student-directory", type=Path, default=model_directory("adder-student"))
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if not arguments.evaluate:
        model, tokenizer = train(
            arguments.steps, arguments.batch_size, arguments.learning_rate, arguments.seed
        )
        write_shape(TEACHER, tokenizer, arguments.teacher_directory)
        write_weights(model, arguments.teacher_directory)
        write_shape(STUDENT, tokenizer, arguments.student_directory)
    print(f"greedy accuracy on the test split: {evaluate(arguments.teacher_directory):.2%}")


if __name__ == "__main__":
    main()
