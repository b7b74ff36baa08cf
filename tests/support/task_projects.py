"""Projects with one lm-eval task file and its documents, loaded as a job loads a suite."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from sweeper.config.suite import SuiteConfig, SuiteTask
from sweeper.evaluation.tasks import LeafTask, load_tasks
from sweeper.foundation.errors import BadInputError
from sweeper.records import SuiteSpec
from tests.support.tiny_studies import write_yaml

TASK: dict[str, Any] = {
    "task": "plus",
    "dataset_path": "json",
    "dataset_kwargs": {"data_files": {"test": "../data/docs.jsonl"}},
    "test_split": "test",
    "output_type": "generate_until",
    "doc_to_text": "{{q}}",
    "doc_to_target": "{{a}}",
    "generation_kwargs": {"until": ["\n"], "max_gen_toks": 4},
    "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
}
CHOICES: dict[str, Any] = {
    "output_type": "multiple_choice",
    "doc_to_choice": "{{c}}",
    "doc_to_target": "{{n}}",
    "metric_list": [{"metric": "acc"}],
    "generation_kwargs": None,
}
"""Keys of a task of choices."""
ROWS = [
    {"q": f"what is {i}?", "a": answer, "n": i % 2, "c": ["nay", "yea"], "t": str(i % 2)}
    for i, answer in enumerate(["[1, 2, 3]", "007", "aye"])
]


def write_project(
    folder: Path,
    rows: Sequence[Mapping[str, Any]] = ROWS,
    files: Mapping[str, str] | None = None,
    *,
    without: Sequence[str] = (),
    more: str = "",
    **task: Any,
) -> Path:
    """Write a task file, its documents, and other files; ``more`` is added to the task file."""
    for name in ("data", "tasks"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "data" / "docs.jsonl").write_text(text, encoding="utf-8")
    values = {key: value for key, value in {**TASK, **task}.items() if key not in without}
    path = folder / "tasks" / "plus.yaml"
    write_yaml(path, {key: v for key, v in values.items() if v is not None or key in task})
    with path.open("a", encoding="utf-8") as file:
        file.write(more)
    for name, content in (files or {}).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content, encoding="utf-8")
    return folder


def load(folder: Path, *entries: dict[str, Any], **entry: Any) -> list[LeafTask]:
    """Load a suite of the folder's tasks."""
    listed = [SuiteTask(**{"task": "plus", **one}) for one in entries or [entry]]
    config = SuiteConfig(suite="s", tasks=tuple(listed))
    directory = str((folder / "tasks").resolve())
    return load_tasks(SuiteSpec(config=config, task_directories=(directory,), content_hash="x"))


def refused(folder: Path, *entries: dict[str, Any], **entry: Any) -> str:
    """Return the one-line message of a suite that is refused, without the folder."""
    with pytest.raises(BadInputError) as caught:
        load(folder, *entries, **entry)
    message = str(caught.value)
    assert "\n" not in message
    return message.replace(str(folder.resolve()), "")


def targets(leaf: LeafTask) -> list[Any]:
    """Return the targets of a task's documents."""
    return [leaf.task.doc_to_target(leaf.document(index)) for index in leaf.documents]


def texts(leaf: LeafTask) -> list[Any]:
    """Return the prompts of a task's documents."""
    return [leaf.task.doc_to_text(leaf.document(index)) for index in leaf.documents]


def choices(leaf: LeafTask) -> list[Any]:
    """Return the choices of a task's documents."""
    return [leaf.task.doc_to_choice(leaf.document(index)) for index in leaf.documents]
