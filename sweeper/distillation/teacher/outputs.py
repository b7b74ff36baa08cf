"""The teacher's own answers to the prompts: sampled once per study, stored, used by every trial."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sweeper.config.models import ModelConfig
from sweeper.distillation.data.examples import TokenizedData, render_prompt
from sweeper.distillation.data.training_data import TrainingData
from sweeper.distillation.models.loading import (
    computing_threads,
    end_token_ids,
    identity,
    load_model,
    turn_end_ids,
)
from sweeper.distillation.sampling.rollouts import generate
from sweeper.foundation.cache import Cache, content_key
from sweeper.foundation.environment import library_versions
from sweeper.records import Resources
from sweeper.records.seeds import teacher_outputs_seed, teacher_seed

_FILE = "answers.jsonl"


def get_or_compute(
    material: TrainingData,
    teacher: ModelConfig,
    place: Resources,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> list[tuple[int, ...]]:
    """The teacher's answer to each example, as token ids of the shared vocabulary.

    Args:
        material: The prompts and the student's tokenizer, which shares the teacher's vocabulary.
        teacher: The arm's teacher.
        place: Where to generate, if the answers are not in the cache.
        report: Called with the number of prompts answered and their total.

    Returns:
        Token ids, with the end token if the answer ended by itself; one answer for each example.
    """
    origin, tokenizer = material.origin, material.tokenizer
    settings = origin.teacher_outputs

    def build(directory: Path) -> None:
        with computing_threads(origin.cache_threads):
            _answer(directory)

    def _answer(directory: Path) -> None:
        model = load_model(teacher, place.device, seed=teacher_seed(origin.seed))
        examples = material.examples
        prompts = [
            tokenizer(render_prompt(example, tokenizer), add_special_tokens=False)["input_ids"]
            for example in examples
        ]

        def count(done: int) -> None:
            if done % settings.batch_size == 0 or done == len(prompts):
                report(done, len(prompts))

        answers = generate(
            model,
            prompts,
            temperature=settings.temperature,
            max_new_tokens=settings.max_new_tokens,
            end_ids=end_token_ids(model, tokenizer),
            pad_id=int(tokenizer.pad_token_id),
            seed=teacher_outputs_seed(origin.seed),
            batch_size=settings.batch_size,
            report=count,
        )
        with (directory / _FILE).open("w", encoding="utf-8") as file:
            for example, answer in zip(examples, answers, strict=True):
                text = tokenizer.decode(answer.tokens, skip_special_tokens=True)
                row = {"prompt": example.prompt, "answer": text, "finished": answer.finished}
                file.write(json.dumps({**row, "tokens": answer.tokens}) + "\n")

    key = _determinants(material, teacher, place)
    return Cache(Path(origin.cache)).read("teacher_outputs", key, build, _read)


def _read(directory: Path) -> list[tuple[int, ...]]:
    with (directory / _FILE).open(encoding="utf-8") as file:
        return [tuple(json.loads(line)["tokens"]) for line in file]


def tokens(
    material: TrainingData, teacher: ModelConfig, place: Resources, max_length: int
) -> TokenizedData:
    """The prompts with the teacher's answers, as token ids."""
    key = content_key(_determinants(material, teacher, place))
    return material.tokens(max_length, lambda: get_or_compute(material, teacher, place), key)


def _determinants(material: TrainingData, teacher: ModelConfig, place: Resources) -> dict[str, Any]:
    origin, tokenizer = material.origin, material.tokenizer
    settings = origin.teacher_outputs
    return {
        "teacher": identity(teacher),
        "data": material.fingerprint,
        **material.text_key,
        "ends": sorted(turn_end_ids(tokenizer)),
        "padding": tokenizer.pad_token_id,
        "settings": settings.model_dump(),
        "seed": origin.seed if settings.temperature or teacher.random_init else None,
        "device": place.device.partition(":")[0],
        "threads": origin.cache_threads,
        "versions": library_versions(),
    }
