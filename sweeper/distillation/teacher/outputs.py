"""The teacher's own answers to the prompts: generated once, and stored for every trial."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sweeper.distillation.data.examples import TokenizedData, render_prompt
from sweeper.distillation.data.training_data import TrainingData
from sweeper.distillation.models.answer_ends import answer_ends, end_token_ids, turn_end_ids
from sweeper.distillation.models.loading import computing_threads
from sweeper.distillation.sampling.rollouts import generate
from sweeper.distillation.teacher.shared_teacher import SharedTeacher
from sweeper.foundation.cache import Cache, content_key
from sweeper.records.seeds import teacher_outputs_seed

_FILE = "answers.jsonl"


def get_or_compute(
    data: TrainingData,
    teacher: SharedTeacher,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> list[tuple[int, ...]]:
    """Return the teacher's answer to each example, with the end token if it ended by itself.

    It is an end token of the student's, whichever of its own the teacher wrote.

    ``report`` gets the number of prompts answered and their total.
    """
    inputs, tokenizer = data.inputs, data.tokenizer
    settings = inputs.teacher_outputs

    @computing_threads(inputs.cache_threads)
    def build(directory: Path) -> None:
        model, asked = teacher.load(), data.asked_of(teacher.config).tokenizer
        prompts = [
            asked(render_prompt(example, asked), add_special_tokens=False)["input_ids"]
            for example in data.examples
        ]
        ends, end = turn_end_ids(tokenizer), answer_ends(tokenizer)[0]

        def count(done: int) -> None:
            if done % settings.batch_size == 0 or done == len(prompts):
                report(done, len(prompts))

        answers = generate(
            model,
            prompts,
            temperature=settings.temperature,
            max_new_tokens=settings.max_new_tokens,
            end_ids=sorted({*end_token_ids(model, asked), *ends}),
            pad_id=int(tokenizer.pad_token_id),
            seed=teacher_outputs_seed(inputs.seed),
            batch_size=settings.batch_size,
            report=count,
        )
        with (directory / _FILE).open("w", encoding="utf-8") as file:
            for example, answer in zip(data.examples, answers, strict=True):
                tokens = list(answer.tokens)
                if answer.finished and tokens[-1] not in ends:
                    tokens[-1] = end
                text = tokenizer.decode(tokens, skip_special_tokens=True)
                row = {"prompt": example.prompt, "answer": text, "finished": answer.finished}
                file.write(json.dumps({**row, "tokens": tokens}) + "\n")

    def read(directory: Path) -> list[tuple[int, ...]]:
        with (directory / _FILE).open(encoding="utf-8") as file:
            return [tuple(json.loads(line)["tokens"]) for line in file]

    key = _determinants(data, teacher)
    return Cache(Path(inputs.cache)).read("teacher_outputs", key, build, read)


def tokens(data: TrainingData, teacher: SharedTeacher, max_length: int) -> TokenizedData:
    """Return the prompts with the teacher's answers, as token ids."""
    key = content_key(_determinants(data, teacher))
    return data.tokens(max_length, lambda: get_or_compute(data, teacher), key)


def _determinants(data: TrainingData, teacher: SharedTeacher) -> dict[str, Any]:
    """Return everything that decides the answers."""
    tokenizer, settings = data.tokenizer, data.inputs.teacher_outputs
    return {
        **teacher.determinants(sampled=settings.temperature > 0),
        "data": data.fingerprint,
        **data.text_key,
        "asked": data.asked_of(teacher.config).text_key,
        "ends": sorted(turn_end_ids(tokenizer)),
        "padding": tokenizer.pad_token_id,
        "settings": settings.model_dump(),
    }
