"""Train the small models of the addition task that ship with the package.

``python -m scripts.train_adder teacher student`` trains both and writes their folders. Without
names it only measures the shipped ones. One seed and one thread give one model.

``weak-teacher`` has the student's shape, another seed, and fewer steps.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
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

from sweeper.config.builtin import addition, model_directory

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
    return PreTrainedTokenizerFast(
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
WEAK_STEPS = 320
"""Optimiser steps of the weak teacher."""


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


def train_teacher(
    steps: int, batch_size: int, learning_rate: float, seed: int
) -> tuple[LlamaForCausalLM, PreTrainedTokenizerFast]:
    """Train a teacher from a seeded random start on problems of the ``teacher`` split.

    Args:
        steps: Number of optimiser steps.
        batch_size: Problems a step; every problem is drawn once before any is drawn twice.
        learning_rate: Peak of a warm-up of 50 steps and a cosine down to zero.
        seed: Seed of the weights and of the order of the problems.
    """
    rows = addition.problems("teacher")
    Random(seed).shuffle(rows)
    torch.manual_seed(seed)
    model = LlamaForCausalLM(TEACHER)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=learning_rate, betas=(0.9, 0.98), weight_decay=0.01
    )
    warmup = min(50, steps)

    def share(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))

    batches = (
        [rows[index % len(rows)] for index in range(start, start + batch_size)]
        for start in range(0, steps * batch_size, batch_size)
    )
    return _fit(model, optimizer, share, batches, steps)


def train_student(
    steps: int = 350, problems: int = 200, seed: int = 0
) -> tuple[LlamaForCausalLM, PreTrainedTokenizerFast]:
    """Train the student on few problems until cross-entropy has little more to teach it.

    That is the state in which on-policy training has something to show: on its own problems the
    student is nearly perfect, on others its mistakes compound.

    Args:
        steps: Optimiser steps of 32 problems: learning rate 2e-3, 20 steps of warm-up, then
            constant, then linear to zero over the last 100.
        problems: The first so many of the ``train`` split, in shuffled epochs.
        seed: Seed of the weights and of the order of the problems.
    """
    rows = addition.problems("train", problems)
    torch.manual_seed(seed)
    model = LlamaForCausalLM(STUDENT)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.0)

    def share(step: int) -> float:
        return min(1.0, (steps - step) / 100, (step + 1) / 20)

    return _fit(model, optimizer, share, _epochs(rows, Random(seed)), steps)


def _epochs(rows: list[dict[str, str]], random: Random) -> Iterator[list[dict[str, str]]]:
    """Yield batches of 32 from one shuffled epoch after another."""
    order: list[int] = []
    while True:
        if len(order) < 32:
            epoch = list(range(len(rows)))
            random.shuffle(epoch)
            order += epoch
        yield [rows[index] for index in order[:32]]
        order = order[32:]


def _fit(
    model: LlamaForCausalLM,
    optimizer: torch.optim.Optimizer,
    share: Callable[[int], float],
    batches: Iterable[list[dict[str, str]]],
    steps: int,
) -> tuple[LlamaForCausalLM, PreTrainedTokenizerFast]:
    """Train by cross-entropy on the answers; a step's learning rate is the peak times its share."""
    tokenizer = build_tokenizer()
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, share)
    model.train()
    started = time.monotonic()
    for step, batch in enumerate(islice(batches, steps), start=1):
        ids, labels = encode(tokenizer, batch)
        loss = model(input_ids=ids, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 50 == 0:
            seconds = time.monotonic() - started
            print(f"step {step}/{steps}  loss {loss.item():.4f}  {seconds:.0f} s", flush=True)
    return model, tokenizer


@torch.no_grad()
def accuracy(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerBase,
    rows: list[dict[str, str]],
    batch_size: int = 200,
) -> float:
    """Return the share of rows, in [0, 1], whose whole greedy answer equals the reference."""
    model.eval()
    correct = 0
    for start in range(0, len(rows), batch_size):
        batch = rows[start : start + batch_size]
        # All questions have the same length, so there is no padding to mask.
        prompts = tokenizer([row["question"] for row in batch], return_tensors="pt")
        output = model.generate(**prompts, do_sample=False, max_new_tokens=MAX_NEW_TOKENS)
        answers = output[:, prompts["input_ids"].shape[1] :]
        texts = tokenizer.batch_decode(answers, skip_special_tokens=True)
        correct += sum(text == row["answer"] for text, row in zip(texts, batch, strict=True))
    return correct / len(rows)


def write_shape(config: LlamaConfig, tokenizer: PreTrainedTokenizerBase, directory: Path) -> None:
    """Write everything that ``from_pretrained`` needs except the weights."""
    directory.mkdir(parents=True, exist_ok=True)
    config.save_pretrained(directory)
    GenerationConfig(
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


TRAINED: dict[str, Callable[[], tuple[LlamaForCausalLM, PreTrainedTokenizerFast]]] = {
    "teacher": lambda: train_teacher(1500, batch_size=64, learning_rate=2e-3, seed=0),
    "student": train_student,
    "weak-teacher": lambda: train_student(steps=WEAK_STEPS, seed=1),
}
"""Shipped models, each with how it is trained."""


def main() -> None:
    """Train the named models and write their folders, then measure all of them."""
    parser = argparse.ArgumentParser(prog="python -m scripts.train_adder")
    parser.add_argument("models", nargs="*", choices=[*TRAINED, []], help="to train")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    for name in arguments.models:
        model, tokenizer = TRAINED[name]()
        directory = model_directory(f"adder-{name}")
        write_shape(model.config, tokenizer, directory)
        write_weights(model, directory)
    for name in TRAINED:
        correct = evaluate(model_directory(f"adder-{name}"))
        print(f"{name}: greedy accuracy on the test split {correct:.2%}")


if __name__ == "__main__":
    main()
