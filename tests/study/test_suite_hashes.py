"""A suite's hash: whatever its tasks read is part of it, and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from sweeper.config.loading import load_suite
from sweeper.study.manifest import suite_spec
from tests.support.tiny_studies import ROOT

TASK = "task: mine\ndataset_path: json\noutput_type: generate_until\n"
ROWS = '{"question": "1+1", "answer": "2"}\n'


def _suite(folder: Path, *task_folders: str) -> Callable[[], str]:
    text = f"suite: s\ntask_paths: [{', '.join(task_folders)}]\ntasks: [{{task: mine}}]\n"
    (folder / "suite.yaml").write_text(text, encoding="utf-8")
    for name in task_folders:
        (folder / name).mkdir(exist_ok=True)
    return lambda: suite_spec(load_suite(folder / "suite.yaml")).content_hash


def test_the_suites_hash_is_that_of_its_content_not_of_its_place(tmp_path: Path) -> None:
    hashes = []
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
        suite_hash = _suite(tmp_path / name, "tasks")
        (tmp_path / name / "tasks" / "mine.yaml").write_text(TASK, encoding="utf-8")
        hashes.append(suite_hash())
    assert hashes[0] == hashes[1]


def test_the_suites_hash_covers_files_of_one_name_in_two_folders(tmp_path: Path) -> None:
    suite_hash = _suite(tmp_path, "tasks", "more")
    for name in ("tasks", "more"):
        (tmp_path / name / "_template.yaml").write_text("a: 1\n", encoding="utf-8")
    before = suite_hash()
    (tmp_path / "tasks" / "_template.yaml").write_text("a: 2\n", encoding="utf-8")
    assert suite_hash() != before


def test_the_suites_hash_covers_the_documents_that_its_tasks_read(tmp_path: Path) -> None:
    suite_hash = _suite(tmp_path, "tasks")
    (tmp_path / "data").mkdir()
    documents = tmp_path / "data" / "documents.jsonl"
    documents.write_text(ROWS, encoding="utf-8")
    (tmp_path / "tasks" / "mine.yaml").write_text(
        TASK + "dataset_kwargs: {data_files: {test: ../data/documents.jsonl}}\n", encoding="utf-8"
    )
    before = suite_hash()
    documents.write_text(ROWS * 2, encoding="utf-8")
    assert suite_hash() != before


DATA = "dataset_kwargs: {data_files: {test: %s}}\n"
INLINE = "group: both\ntask:\n- task: inner\n  dataset_kwargs: {data_files: ../more/rows.jsonl}\n"
READ = {
    "a file of documents": (TASK + DATA % "../more/rows.jsonl", "more/rows.jsonl"),
    "a file of a list": (TASK + DATA % "[../more/a.jsonl, ../more/b.jsonl]", "more/b.jsonl"),
    "files by wildcards": (TASK + DATA % '"../more/*.jsonl"', "more/rows.jsonl"),
    "a folder by its options": (TASK + "dataset_kwargs: {data_dir: ../more}\n", "more/rows.jsonl"),
    "a folder of documents": (TASK.replace("json", "../more"), "more/deep/rows.jsonl"),
    "documents of a group's own task": (INLINE, "more/rows.jsonl"),
    "code": (TASK + "process_docs: !function utils.f\n", "tasks/utils.py"),
    "code of a package": (TASK + "process_docs: !function lib.utils.f\n", "tasks/lib/utils.py"),
    "a template of any suffix": (TASK + "include: ../more/common.txt\n", "more/common.txt"),
    "the second of two templates": (TASK + "include: [a.yaml, ../more/b]\n", "more/b"),
    "what a template includes": (TASK + "include: ../more/common.txt\n", "more/inner.txt"),
    "documents of a template": (TASK + "include: ../more/common.txt\n", "more/common.jsonl"),
    "code of a template": (TASK + "include: ../more/common.txt\n", "more/code.py"),
    "code that it imports": (TASK + "include: ../more/common.txt\n", "more/helper.py"),
    "prompts": (TASK + 'use_prompt: "../more/prompts.yaml:mine"\n', "more/prompts.yaml"),
    "prompts of a template": (TASK + "include: ../more/common.txt\n", "more/p.yaml"),
}
COMMON = (
    "include: inner.txt\ndataset_kwargs: {data_files: common.jsonl}\n"
    "process_docs: !function code.f\nuse_prompt: p.yaml:mine\n"
)


@pytest.mark.parametrize(("task", "changed"), READ.values(), ids=READ)
def test_the_suites_hash_covers_whatever_a_task_reads(
    tmp_path: Path, task: str, changed: str
) -> None:
    suite_hash = _suite(tmp_path, "tasks")
    (tmp_path / "more" / "deep").mkdir(parents=True)
    (tmp_path / "tasks" / "mine.yaml").write_text(task)
    (tmp_path / "more" / "common.txt").write_text(COMMON)
    (tmp_path / "more" / "code.py").write_text("from helper import f\n")
    place = tmp_path / changed
    place.parent.mkdir(exist_ok=True)
    if not place.exists():
        place.write_text("a: 1\n")
    before = suite_hash()
    assert suite_hash() == before
    place.write_text(place.read_text() + "# more\n")
    assert suite_hash() != before


def test_the_suites_hash_covers_a_file_that_wildcards_match_only_now(tmp_path: Path) -> None:
    suite_hash = _suite(tmp_path, "tasks")
    (tmp_path / "tasks" / "mine.yaml").write_text(TASK + DATA % '"../more/*.jsonl"')
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "a.jsonl").write_text(ROWS)
    before = suite_hash()
    (tmp_path / "more" / "b.jsonl").write_text(ROWS)
    assert suite_hash() != before


@pytest.mark.parametrize(
    "name", [".DS_Store", "rows.jsonl~", "mine.yaml~", ".mine.yaml.swp", "#mine.yaml#",
             "._mine.yaml", ".#mine.yaml", "__pycache__/utils.cpython-311.pyc",
             ".ipynb_checkpoints/mine.yaml"]
)  # fmt: skip
@pytest.mark.parametrize("folder", ["tasks", "more"])
def test_what_editors_and_systems_leave_behind_changes_no_hash(
    tmp_path: Path, name: str, folder: str
) -> None:
    suite_hash = _suite(tmp_path, "tasks")
    (tmp_path / "tasks" / "mine.yaml").write_text(TASK.replace("json", "../more"))
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "rows.jsonl").write_text(ROWS)
    before = suite_hash()
    place = tmp_path / folder / name
    place.parent.mkdir(exist_ok=True)
    place.write_text("a: 1\n")
    assert suite_hash() == before


def test_a_task_file_that_is_broken_still_has_a_hash(tmp_path: Path) -> None:
    suite_hash = _suite(tmp_path, "tasks")
    (tmp_path / "tasks" / "mine.yaml").write_text(TASK + DATA % "rows.jsonl")
    for text in ("a: [", "a: &x [*x]\n", "include: mine.yaml\n", "dataset_path: 'a\\0b'\n"):
        (tmp_path / "tasks" / "other.yaml").write_text(text)
        assert suite_hash()


SHIPPED = {
    "addition-selection.yaml": "bf9e53e5661c3035f1920400c72f9581",
    "addition-test.yaml": "681492095cdd19323f17a4eea921635e",
    "gsm8k/gsm8k-selection.yaml": "b608dfd6c8ca526aa00b5e872f4e2239",
    "gsm8k/gsm8k-test.yaml": "0c6765e266bf424b3a5d860d99c4c8d8",
    "smollm2/smollm2-selection.yaml": "9d3e44c171ba93d9f36544d8ef9c0150",
    "smollm2/smollm2-test.yaml": "e37f1b5947fb2ef4b46e10971e3a2d7d",
}


def test_the_engine_is_a_part_of_the_suites_identity() -> None:
    suite = load_suite(ROOT / "eval_suites" / "addition-test.yaml")
    served = suite_spec(replace(suite, engine="vllm"))
    assert served.content_hash != suite_spec(suite).content_hash
    assert served.config == suite.config


@pytest.mark.parametrize(("suite", "expected"), SHIPPED.items())
def test_studies_of_shipped_suites_resume(suite: str, expected: str) -> None:
    assert suite_spec(load_suite(ROOT / "eval_suites" / suite)).content_hash == expected
