"""Tasks of every kind of output, and a tiny model to score on them: loaded, or behind a server."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from sweeper.config.models import ModelConfig
from sweeper.config.suite import SuiteConfig, SuiteTask
from sweeper.distillation.models.answer_ends import end_token_ids
from sweeper.distillation.models.loading import load_model, load_tokenizer
from sweeper.evaluation.scoring import Evaluation, score
from sweeper.evaluation.served_model import AnsweringModel
from sweeper.records import SuiteSpec
from tests.support.tiny_studies import make_model, write_yaml

ROWS = [
    {"text": "the quick brown fox", "asked": "Best?", "choices": ["yes", "no"], "gold": 0},
    {"text": "jumps over <|im_end|> dogs ", "asked": "Worst? ", "choices": ["a", "bc"], "gold": 1},
    {
        "text": "again\n\nand again",
        "asked": "<|im_start|>Ünïcode?",
        "choices": ["_", "x"],
        "gold": 1,
    },
]
TASKS: dict[str, dict[str, Any]] = {
    "generation": {
        "output_type": "generate_until",
        "doc_to_target": "{{text}}",
        "generation_kwargs": {"until": ["\n", "e"], "max_gen_toks": 12},
        "metric_list": [{"metric": "exact_match"}],
    },
    "few_shot": {
        "output_type": "generate_until",
        "doc_to_target": "{{text}}",
        "fewshot_split": "test",
        "num_fewshot": 2,
        "generation_kwargs": {"max_gen_toks": 5, "repetition_penalty": 1.0},
        "metric_list": [{"metric": "exact_match"}],
    },
    "choice": {
        "output_type": "multiple_choice",
        "doc_to_choice": "{{choices}}",
        "doc_to_target": "gold",
        "metric_list": [{"metric": "acc"}],
    },
    "likelihood": {
        "output_type": "loglikelihood",
        "doc_to_target": "{{text}}",
        "target_delimiter": "",
        "metric_list": [{"metric": "perplexity"}],
    },
    "greedy": {
        "output_type": "loglikelihood",
        "doc_to_target": "{{choices[1][:1]}}",
        "target_delimiter": "",
        "metric_list": [{"metric": "acc"}],
    },
    "rolling": {
        "output_type": "loglikelihood_rolling",
        "doc_to_text": "",
        "doc_to_target": "{{text}}",
        "metric_list": [{"metric": "byte_perplexity"}],
    },
}


GENERATIONS = ("generation", "few_shot")


@dataclass(frozen=True)
class Pair:
    """A tiny model with random weights, and its tokenizer."""

    model: Any
    tokenizer: Any

    def ends(self) -> list[int]:
        return end_token_ids(self.model, self.tokenizer)

    def at(self, reached: Any) -> AnsweringModel:
        return AnsweringModel(self.model.config, self.model.generation_config, reached)


def make_pair(folder: Path, *, layers: int = 1, width: int = 16) -> Pair:
    """Write a model whose answers differ from prompt to prompt, and load it."""
    named = ModelConfig(model=make_model(folder, layers=layers, width=width))
    model = load_model(named, "cpu")
    with torch.no_grad():  # so that tokens differ, and an end token comes now and then
        model.lm_head.weight.mul_(8.0)
    # What a publisher saved must not count.
    model.generation_config.update(do_sample=True, temperature=2.0, repetition_penalty=1.5)
    model.save_pretrained(folder)
    return Pair(model, load_tokenizer(named))


def write_tasks(folder: Path) -> Path:
    """Write ``TASKS``, and a task that samples, with their rows."""
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    shared = {
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": "rows.jsonl"}},
        "test_split": "test",
        "doc_to_text": "{{asked}}",
    }
    for name, task in TASKS.items():
        write_yaml(folder / f"{name}.yaml", {"task": name, **shared, **task})
    sampled = {"do_sample": True, "temperature": 0.7, "max_gen_toks": 5, "top_p": 0.9}
    task = {**TASKS["generation"], "generation_kwargs": sampled, "repeats": 2}
    write_yaml(folder / "sampled.yaml", {"task": "sampled", **shared, **task})
    return folder


def scored(pair: Pair, model: Any, tasks: Path, *names: str, **options: Any) -> Evaluation:
    config = SuiteConfig(suite="s", tasks=tuple(SuiteTask(task=name) for name in names))
    suite = SuiteSpec(config=config, task_directories=(str(tasks),), content_hash="h")
    options = {"chat": False, "batch_size": 2, "samples": 3, **options}
    return score(model, pair.tokenizer, suite, end_ids=pair.ends(), dtype="float32", **options)


def assert_same(served: Evaluation, loaded: Evaluation, rounding: float = 1e-5) -> None:
    """All documents have the same answers and, but for rounding, the same scores."""
    for ours, theirs in zip(served.samples, loaded.samples, strict=True):
        if theirs.task in GENERATIONS:
            assert ours == theirs
        else:
            assert ours.prompt == theirs.prompt
    for one, other in zip(served.documents, loaded.documents, strict=True):
        assert one.score == pytest.approx(other.score, rel=rounding)
        assert replace(one, score=0.0) == replace(other, score=0.0)
    assert served.scores.score == pytest.approx(loaded.scores.score, rel=rounding)
