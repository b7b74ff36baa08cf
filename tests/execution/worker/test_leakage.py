"""The leak check: what of a conversation may not be asked in a suite."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from sweeper.config.data import DataConfig
from sweeper.config.suite import SuiteConfig
from sweeper.distillation.data.conversations import Example
from sweeper.distillation.data.examples import to_examples
from sweeper.distillation.data.rows import columns_of
from sweeper.evaluation.tasks import LeafTask, load_tasks
from sweeper.execution.worker.leakage import check_leaks
from sweeper.execution.worker.summaries import rows_summary
from sweeper.foundation.errors import BadInputError
from sweeper.records import PreparationSpec, StudyInputs, SuiteSpec
from tests.support.data_checks import write_rows

DOCUMENTS = [
    {"q": f"Is {n} plus 1 more than {n}?", "a": "yes" if n % 2 else "no"} for n in range(6)
]
TASK = {
    "task": "plus",
    "dataset_path": "json",
    "dataset_kwargs": {"data_files": {"test": "docs.jsonl"}},
    "test_split": "test",
    "output_type": "generate_until",
    "doc_to_text": "Question: {{q}}",
    "doc_to_target": "{{a}}",
    "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
}
SPEC = {"config": SuiteConfig.model_validate({"suite": "s", "tasks": [{"task": "plus"}]})}


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> tuple[SuiteSpec, list[LeafTask]]:
    folder = tmp_path_factory.mktemp("tasks")
    write_rows(folder / "docs.jsonl", DOCUMENTS)
    (folder / "plus.yaml").write_text(json.dumps(TASK), encoding="utf-8")
    spec = SuiteSpec(**SPEC, task_directories=(str(folder),), content_hash="")
    return spec, load_tasks(spec)


def conversation(*texts: str) -> dict[str, Any]:
    """Return a row whose turns are by the user and the assistant in turn."""
    roles = ("user", "assistant") * len(texts)
    turns = zip(roles, texts, strict=False)
    return {"messages": [{"role": role, "content": text} for role, text in turns]}


def examples(*rows: dict[str, Any]) -> list[Example]:
    data = DataConfig.model_validate({"train": {"path": "train.jsonl"}})
    return to_examples(rows, columns_of(data, rows), data)


def leaks(suite: tuple[SuiteSpec, list[LeafTask]], *rows: dict[str, Any]) -> list[str]:
    """Return what the leak check says of training rows and the suite."""
    told = []

    @contextmanager
    def noting(*_: str) -> Iterator[None]:
        try:
            yield
        except BadInputError as error:
            told.append(str(error))

    spec = PreparationSpec.model_construct(suite=suite[0], test_suite=None)
    check_leaks(spec, examples(*rows), suite[1], None, noting)
    return told


def test_leak_multi_turn(suite: Any) -> None:
    asked = DOCUMENTS[3]["q"].replace(" ", "  ")
    [told] = leaks(suite, conversation("Hi", "Hello"), conversation(asked, "yes", "Sure?", "Yes"))
    assert "1 of the suite s are also in the training data" in told
    [told] = leaks(suite, conversation("Hi", "Hello", f"Question: {DOCUMENTS[2]['q']}", "no"))
    assert DOCUMENTS[2]["q"] in told


def test_a_short_answer_that_documents_share_is_no_leak(suite: Any) -> None:
    assert not leaks(suite, conversation("Shall I go on?", "Say yes.", "yes", "So be it."))
    assert not leaks(suite, conversation("Hi", f"{DOCUMENTS[2]['q']}", "Well?", "no"))


def test_repeated_multi_turn() -> None:
    again = [conversation(f"Tell me of {n}.", "So.", "Go on.", "More.") for n in (1, 2, 2)]
    data = DataConfig.model_validate({"train": {"path": "train.jsonl"}})
    columns = columns_of(data, again)
    inputs = StudyInputs.model_construct(data=data, data_files=())
    assert rows_summary(again, columns, examples(*again), inputs).repeated == 1
