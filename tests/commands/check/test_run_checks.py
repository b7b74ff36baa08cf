"""``check`` with real models, data and suites: one study that is well, and one that is not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from sweeper.analysis.findings import Finding, Preflight
from sweeper.commands.check.data_step import run_data_step
from sweeper.commands.check.run_checks import check, judge
from sweeper.config.loading import LoadedStudy, load_study
from tests.support.tiny_studies import ROOT, adder_study, adder_suite, write_yaml

ROWS = [{"question": f"{i} + 1 = ?", "answer": "# " * (i + 1)} for i in range(20)]
"""Prompts of 28 and 29 tokens; references of 3, 5, … and 41 with the token that ends them."""


WATCHED = {"task": "watched", "documents": [100, 104], "metric": "exact_match", "weight": 0}
"""A task that decides nothing."""


def written(directory: Path, *further: dict[str, str], **changes: Any) -> LoadedStudy:
    """A study of rows that a user brings, whose suites share the task ``WATCHED``."""
    text = "".join(json.dumps(row) + "\n" for row in [*ROWS, *further])
    (directory / "rows.jsonl").write_text(text, encoding="utf-8")
    tasks = ROOT / "eval_suites" / "tasks"
    task = (tasks / "addition.yaml").read_text(encoding="utf-8")
    (directory / "tasks").mkdir()
    (directory / "tasks" / "watched.yaml").write_text(
        task.replace("task: addition", "task: watched").replace("../data", f"{tasks.parent}/data"),
        encoding="utf-8",
    )
    for name, first, end in (("selection", 0, 12), ("test", 12, 20)):
        suite = adder_suite(name, first, end)
        suite["task_paths"].append("tasks")
        suite["tasks"].append(WATCHED)
        write_yaml(directory / f"{name}.yaml", suite)
    data = {"train": {"path": "rows.jsonl"}}
    values = adder_study(data=data, confirm={"seeds": 3}, **changes)
    return load_study(write_yaml(directory / "study.yaml", values))


def by_name(found: Preflight) -> dict[str, Finding]:
    return {finding.what: finding for finding in found.findings}


def test_a_sound_study_is_told_what_is_known_of_it(
    tiny_teacher: str, tiny_student: str, tmp_path: Path
) -> None:
    study = written(
        tmp_path,
        ROWS[3],
        teacher={"model": tiny_teacher},
        student={"model": tiny_student, "lora": {"r": 2}},
        training={"max_length": 60},
    )
    seen = run_data_step(study, "cpu", tmp_path / "cache")
    assert (seen.selection_documents, seen.test_documents, seen.test_scored) == (12, 8, 12)
    checked = judge(study, seen)
    assert not checked.errors, "what decides nothing may be in both suites"
    assert checked.design is not None and checked.design.documents == 8
    found = by_name(checked)
    assert found["training data"].detail.startswith("21 rows of rows.jsonl (train), all with")
    assert found["training data"].detail.endswith("read from question and answer")
    assert found["repeated prompts"].state == "warning"
    assert found["repeated prompts"].detail.startswith("1 of 21 prompts repeat")
    assert found["vocabulary"].detail == "teacher and student share 259 tokens; 259 logits each"
    assert found["chat template"].state == found["end tokens"].state == "ok"
    assert found["end tokens"].detail == "an answer ends with <|endoftext|> or <|im_end|>"
    by = "; scored: addition by exact_match (higher is better; mean, filter result)"
    documents = "documents of addition, watched"
    assert found["selection suite"].detail == f"selection: 12 {documents}{by}"
    assert found["test suite"].detail == f"test: 8 {documents}{by}"
    assert found["overlap"].state == "ok"
    assert found["overlap"].detail.endswith("; tasks of weight 0 may be in both suites")
    assert found["teacher's size"].detail.startswith("4.3 times the student's")
    assert found["memory"].state == "ok"
    # Lengths are those of before anything is cut.
    assert found["max_length"].state == "warning"
    assert found["max_length"].detail == (
        "training.max_length is 60: 5 of 21 references are cut, and lose their end (prompts have"
        " 28 to 29 tokens, with their references 31 to 70)"
    )
    assert "{max_length: 80}" in found["max_length"].advice
    assert found["max_new_tokens"].detail.startswith(
        "gkd: 86 % of the references are longer than 8 tokens"
    )
    assert "max_new_tokens: 48" in found["max_new_tokens"].advice


def test_what_is_wrong_is_told_at_once_and_hides_nothing_else(
    tiny_student: str, tmp_path: Path
) -> None:
    shared = (ROOT / "eval_suites" / "data" / "addition.jsonl").read_text().splitlines()[3]
    study = written(
        tmp_path,
        json.loads(shared),
        teacher={"model": "nobody/has-this-model"},
        student={"model": tiny_student},
        training={"max_length": 100},
    )
    checked = check(study, tmp_path / "runs", cache=tmp_path / "cache")
    assert not (tmp_path / "runs").exists(), "checking must not begin the study"
    assert any((tmp_path / "cache").iterdir())
    errors = {error.what: error for error in checked.errors}
    assert set(errors) == {"teacher", "selection suite"}
    assert errors["teacher"].place.startswith(f"{tmp_path / 'study.yaml'}:")
    assert errors["teacher"].place.endswith(": teacher.model")
    assert "nobody/has-this-model: it is not on this machine" in errors["teacher"].detail
    assert "1 of the suite selection are also in the" in errors["selection suite"].detail
    found = by_name(checked)
    assert "vocabulary" not in found, "it takes both tokenizers"
    assert found["training data"].detail.startswith("21 rows")
    assert found["max_length"].state == "ok"
    assert found["max_new_tokens"].state == "warning"
    assert found["test suite"].state == "ok"
