"""Engines of rollouts, measured on the prompts of one step in a process of its own."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from transformers import GenerationConfig

from benchmarks.gpu.models import make_student
from benchmarks.gpu.pairs import make
from benchmarks.gpu.task import Training
from benchmarks.gpu.training import prepare
from sweeper.config.rollouts import RolloutEngine
from sweeper.distillation.data.training_data import read_training_data, unpack_models
from sweeper.distillation.models.answer_ends import end_token_ids
from sweeper.distillation.sampling.continuous import why_not
from sweeper.distillation.sampling.engine_test import SampledWindow
from sweeper.distillation.sampling.engines import Engine, engine_of
from sweeper.distillation.sampling.rollouts import Rollout

GENERATE = "generate"
"""The library's ``model.generate``, as a careful user calls it."""
ENGINES = ("sweeper", "transformers", GENERATE)
_ENDS = 32
"""One in this many tokens ends an answer: random weights never say that they are done."""


def sample(asked: Training, meet: Callable[[], None]) -> dict[str, Any]:
    """Return the tokens per second of an engine of rollouts, and how far off its answers are.

    Args:
        asked: The training that would sample; ``engine`` is one of ``ENGINES``.
        meet: Waits for the processes next to this one.

    Returns:
        ``generated_per_second``, and the ``deviations`` of ``SampledWindow.read``.
    """
    place = prepare(asked)
    pair = make(asked.pair, asked.shapes, asked.folder, asked.device.startswith("cuda"))
    data = read_training_data(unpack_models(pair.inputs))
    model = make_student(data, place)
    if asked.engine == "transformers" and (reason := why_not(model)):
        raise ValueError(reason)
    settings = pair.settings
    count = settings["per_device_train_batch_size"] * settings["gradient_accumulation_steps"]
    sequences = data.tokens(settings["max_length"]).sequences[:count]
    size = model.config.vocab_size
    ends = random.Random(0).sample(range(size), size // _ENDS)
    window = SampledWindow(
        model=model,
        prompts=[list(sequence.prompt) for sequence in sequences],
        temperature=0.9,
        max_new_tokens=settings["max_new_tokens"],
        end_ids=sorted({*ends, *end_token_ids(model, data.tokenizer)}),
        pad_id=int(data.tokenizer.pad_token_id),
        seed=1,
        batch_size=count,
        autocast=torch.autocast(
            asked.device.partition(":")[0], torch.bfloat16, enabled=settings["bf16"]
        ),
    )
    engine: Engine = generate
    if asked.engine != GENERATE:
        name: RolloutEngine = "transformers" if asked.engine == "transformers" else "sweeper"
        engine = engine_of(name, place, None)
    window.sample(engine, 4)  # compiles, captures and allocates
    seconds, tokens = [], 0
    answers: list[Rollout] = []
    meet()
    for _ in range(asked.steps):
        started = _now(asked.device)
        answers = window.sample(engine, window.max_new_tokens)
        seconds.append(_now(asked.device) - started)
        tokens += sum(len(answer.tokens) for answer in answers)
    deviations, difference = window.read(answers)
    return {
        "seconds": seconds,
        "generated_per_second": tokens / sum(seconds),
        "deviations": deviations,
        "logprob_difference": difference,
    }


def generate(
    model: Any,
    prompts: Sequence[Sequence[int]],
    *,
    temperature: float,
    max_new_tokens: int,
    end_ids: Sequence[int],
    pad_id: int,
    seed: int,
    batch_size: int,
    numbers: Sequence[int] | None = None,
    report: Callable[[int], None] = lambda done: None,
) -> list[Rollout]:
    """Sample by ``model.generate``, all prompts at once."""
    device = next(model.parameters()).device
    width = max(map(len, prompts))
    rows = [[pad_id] * (width - len(prompt)) + list(prompt) for prompt in prompts]
    mask = [[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts]
    chances = {"temperature": temperature, "top_k": 0, "top_p": 1.0}
    torch.manual_seed(seed)
    with torch.no_grad():
        sampled = model.generate(
            input_ids=torch.tensor(rows, device=device),
            attention_mask=torch.tensor(mask, device=device),
            generation_config=GenerationConfig(
                max_new_tokens=max_new_tokens,
                do_sample=True,
                use_cache=True,
                eos_token_id=list(end_ids),
                pad_token_id=pad_id,
                **chances,
            ),
        )[:, width:].tolist()
    ends, answers = set(end_ids), []
    for row in sampled:
        stop = next((at + 1 for at, token in enumerate(row) if token in ends), len(row))
        answers.append(Rollout(tuple(row[:stop]), row[stop - 1] in ends))
    return answers


def _now(device: str) -> float:
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    return time.perf_counter()
