"""Batches that fill a GPU, on a CPU: the same scores, whatever is free."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from sweeper.config.models import ModelConfig
from sweeper.config.suite import SuiteConfig, SuiteTask
from sweeper.distillation.models.loading import load_model, load_tokenizer
from sweeper.evaluation import loaded_model
from sweeper.evaluation.gpu_likelihoods import TOKENS_A_DOCUMENT, FillingLM
from sweeper.evaluation.scoring import Evaluation, score
from sweeper.records import SuiteSpec
from tests.support.tiny_models import ARCHITECTURES, make_tiny
from tests.support.tiny_studies import write_yaml

LONG = " ".join(f"word {number}" for number in range(40))
ROWS = [
    {"text": "a first text", "question": "What?", "choices": ["yes", "no"], "gold": 0},
    {"text": LONG, "question": LONG, "choices": [" a", " b", " c"], "gold": 2},
    {"text": "x", "question": "Else?", "choices": ["a much longer answer", "b"], "gold": 1},
    {"text": LONG[:70], "question": "Why?", "choices": ["so", LONG[:40]], "gold": 1},
] * 3


class Seen:
    """Shapes of what the model is asked for, and of the logits that it gives."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, free: float) -> None:
        self.batches: list[tuple[int, int, int]] = []
        seen = self.batches

        class Watched(FillingLM):
            def _model_call(self, inps: Any, *args: Any) -> Any:
                logits = super()._model_call(inps, *args)
                seen.append((*inps.shape, logits.shape[1]))
                return logits

        monkeypatch.setattr(loaded_model, "HFLM", partial(Watched, lambda: int(free)))


@pytest.fixture
def suite(tmp_path: Path) -> SuiteSpec:
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    common: dict[str, Any] = {
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(rows)}},
        "test_split": "test",
    }
    rolling = {
        "output_type": "loglikelihood_rolling",
        "doc_to_text": "",
        "doc_to_target": "{{text}}",
        "metric_list": [{"metric": "byte_perplexity"}],
    }
    choice = {
        "output_type": "multiple_choice",
        "doc_to_text": "{{question}}",
        "doc_to_choice": "{{choices}}",
        "doc_to_target": "gold",
        "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}],
    }
    for name, task in (("rolling", rolling), ("choice", choice)):
        write_yaml(tmp_path / f"{name}.yaml", {**common, **task, "task": name})
    tasks = (SuiteTask(task="rolling"), SuiteTask(task="choice", metric="acc_norm"))
    config = SuiteConfig(suite="s", tasks=tasks)
    return SuiteSpec(config=config, task_directories=(str(tmp_path),), content_hash="h")


def scored(path: str, suite: SuiteSpec, **options: Any) -> Evaluation:
    named = ModelConfig(model=path)
    model, tokenizer = load_model(named, "cpu"), load_tokenizer(named)
    return score(model, tokenizer, suite, **{"batch_size": 4, "chat": False, **options})


def alike(one: Evaluation, other: Evaluation) -> bool:
    pairs = zip(one.documents, other.documents, strict=True)
    return all(
        a.doc_hash == b.doc_hash and a.score == pytest.approx(b.score, rel=1e-5, abs=1e-6)
        for a, b in pairs
    )


@pytest.mark.parametrize("architecture", ["llama3", "gemma2", "qwen2"])
def test_scores_do_not_depend_on_what_is_free(
    architecture: str, suite: SuiteSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert architecture in ARCHITECTURES
    path = make_tiny(tmp_path / "model", architecture)
    usual = scored(path, suite)
    sizes = {}
    for free in (0, 2e6, 2.02e6, 1e12):
        with monkeypatch.context() as patched:
            seen = Seen(patched, free)
            assert alike(scored(path, suite), usual)
        sizes[free] = [rows for rows, _, _ in seen.batches]
    assert set(sizes[0]) == {1}, "one text is always read"
    assert len(sizes[0]) > len(sizes[2e6]) > len(sizes[1e12])
    # A small difference of what is free leaves the batches as they are.
    assert sizes[2e6] == sizes[2.02e6]


def test_only_logits_of_continuations_are_made(
    suite: SuiteSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make_tiny(tmp_path / "model", "llama3")
    choice = suite.config.model_copy(update={"tasks": suite.config.tasks[1:]})
    seen = Seen(monkeypatch, 2e6)
    scored(path, suite.model_copy(update={"config": choice}))
    lengths = [length for _, length, _ in seen.batches]
    assert lengths == sorted(lengths, reverse=True)
    longest = seen.batches[0]
    assert longest[2] < longest[1] / 4
    made = sum(rows * kept for rows, _, kept in seen.batches)
    assert made < 0.5 * sum(rows * length for rows, length, _ in seen.batches)


def test_a_batch_is_bounded_by_tokens(
    suite: SuiteSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that half as many documents, after memory ran out, are half a batch."""
    path = make_tiny(tmp_path / "model", "llama3")
    for documents in (1, 2):
        with monkeypatch.context() as patched:
            seen = Seen(patched, 1e15)
            scored(path, suite, batch_size=documents)
        most = documents * TOKENS_A_DOCUMENT
        assert all(rows == 1 or rows * length <= most for rows, length, _ in seen.batches)
        assert any(2 * rows * length > most for rows, length, _ in seen.batches)


def test_a_model_that_gives_all_logits_is_scored_alike(
    suite: SuiteSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make_tiny(tmp_path / "model", "llama3")
    usual = scored(path, suite)
    seen = Seen(monkeypatch, 1e12)
    monkeypatch.setattr("sweeper.evaluation.gpu_likelihoods._keeps_some", lambda model: False)
    assert alike(scored(path, suite), usual)
    assert all(length == kept for _, length, kept in seen.batches)


def test_a_cpu_is_scored_as_ever(
    suite: SuiteSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> Any:
        raise AssertionError("a GPU's way on a CPU")

    monkeypatch.setattr(FillingLM, "__init__", refuse)
    with torch.no_grad():
        assert scored(make_tiny(tmp_path / "model"), suite).scores.tasks
