"""The teacher's own answers to the prompts: sampled once per study, stored, used by every trial."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from sweeper.cache import Cache, hash_text
from sweeper.config.study import ModelConfig
from sweeper.distillation.data import Example, fingerprint, render_prompt
from sweeper.distillation.models import (
    computing_threads,
    end_token_ids,
    identity,
    load_model,
    turn_end_ids,
)
from sweeper.distillation.rollouts import generate
from sweeper.records import Origin, Place, derive_seed
from sweeper.versions import library_versions

_FILE = "answers.jsonl"


def obtain(
    origin: Origin,
    teacher: ModelConfig,
    examples: Sequence[Example],
    tokenizer: PreTrainedTokenizerBase,
    place: Place,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> list[tuple[int, ...]]:
    """The teacher's answer to each example, as token ids of the shared vocabulary.

    Args:
        origin: The study's models, data and settings.
        teacher: The arm's teacher.
        examples: The prompts.
        tokenizer: The student's, which shares the teacher's vocabulary.
        place: Where to generate, if the answers are not in the cache.
        report: Called with the number of prompts answered and their total.

    Returns:
        Token ids, with the end token if the answer ended by itself; one answer for each example.
    """
    settings = origin.teacher_outputs
    determinants = {
        "teacher": identity(teacher),
        "data": fingerprint(examples),
        "tokenizer": hash_text(tokenizer.backend_tokenizer.to_str()),
        "template": str(tokenizer.chat_template),
        "ends": sorted(turn_end_ids(tokenizer)),
        "padding": tokenizer.pad_token_id,
        "settings": settings.model_dump(),
        "seed": origin.seed if settings.temperature or teacher.random_init else None,
        "device": place.device.partition(":")[0],
        "threads": origin.cache_threads,
        "versions": library_versions(),
    }

    def build(directory: Path) -> None:
        with computing_threads(origin.cache_threads):
            _answer(directory)

    def _answer(directory: Path) -> None:
        model = load_model(teacher, place.device, seed=derive_seed(origin.seed, "teacher"))
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
            seed=derive_seed(origin.seed, "teacher_outputs"),
            batch_size=settings.batch_size,
            report=count,
        )
        with (directory / _FILE).open("w", encoding="utf-8") as file:
            for example, answer in zip(examples, answers, strict=True):
                text = tokenizer.decode(answer.tokens, skip_special_tokens=True)
                row = {"prompt": example.prompt, "answer": text, "finished": answer.finished}
                file.write(json.dumps({**row, "tokens": answer.tokens}) + "\n")

    directory = Cache(Path(origin.cache)).obtain("teacher_outputs", determinants, build)
    with (directory / _FILE).open(encoding="utf-8") as file:
        return [tuple(json.loads(line)["tokens"]) for line in file]
