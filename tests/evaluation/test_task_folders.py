"""Task files, the code and the includes that they name, groups and tags: found, or named."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.support.task_projects import ROWS, TASK, load, refused, targets, texts, write_project

FUNCTION = "doc_to_text: !function utils.ask\n"
FILES: dict[str, tuple[dict[str, str], str, str]] = {
    "no module": ({}, FUNCTION, "!function utils.ask: no file /tasks/utils.py, and no library has"),
    "no function": (
        {"tasks/utils.py": "def asks(d): ...\n"},
        FUNCTION,
        "!function utils.ask: no 'ask' in /tasks/utils.py; it has asks",
    ),
    "a syntax error": (
        {"tasks/utils.py": "\ndef ask(d: ..."},
        FUNCTION,
        "/tasks/utils.py:2: SyntaxEr",
    ),
    "an error at import": (
        {"tasks/utils.py": "import nope_nope\n"},
        FUNCTION,
        "/tasks/utils.py:1: ModuleNotFoundError: No module named 'nope_nope'",
    ),
    "an error in it": (
        {"tasks/utils.py": "def ask(d):\n    return d['typo']\n"},
        FUNCTION,
        "doc_to_text: /tasks/utils.py:2: KeyError: 'typo'; the columns are q, a, n, c, t",
    ),
    "no text": (
        {"tasks/utils.py": "def ask(d): return None\n"},
        FUNCTION,
        "expected text, found null",
    ),
    "no data set": (
        {"tasks/utils.py": "def ask(d): return list(d)\n"},
        "doc_to_text: q\nprocess_docs: !function utils.ask\n",
        "process_docs: expected a Da",
    ),
    "no documents left": (
        {"tasks/utils.py": "def ask(d): return d.select([])\n"},
        "doc_to_text: q\nprocess_docs: !function utils.ask\n",
        "none of 3 documents is",
    ),
    "no include": (
        {},
        "doc_to_text: q\ninclude: common.yaml\n",
        "include: no file /tasks/common.yaml",
    ),
    "a circle of includes": (
        {"tasks/common.yaml": "include: plus.yaml\n"},
        "doc_to_text: q\ninclude: common.yaml\n",
        "include: expected no circle, foun",
    ),
    "a broken include": (
        {"tasks/common.yaml": "a: [\n"},
        "doc_to_text: q\ninclude: common.yaml\n",
        "/tasks/common.yaml:2: not valid YAML",
    ),
    "broken YAML": ({}, "doc_to_text: [\n", "/tasks/plus.yaml:"),
    "a key twice": ({}, "doc_to_text: q\ndoc_to_text: a\n", "the key 'doc_to_text' stands twice"),
    "an unknown tag": (
        {},
        "doc_to_text: !python utils.ask\n",
        "not valid YAML: could not determine a co",
    ),
    "not UTF-8": ({}, "doc_to_text: q\nmetadata: \ud800\n", "/tasks/plus.yaml: not valid YAML"),
    "no such prompt": (
        {"tasks/p.yaml": "prompts: {other: {}}\n"},
        "use_prompt: p.yaml:mine\n",
        "use_prompt: no prompt 'mine' in /tasks/p.yaml; it has other",
    ),
}


@pytest.mark.parametrize(("files", "more", "message"), FILES.values(), ids=FILES)
def test_a_file_that_cannot_be_read_is_named(
    tmp_path: Path, files: Mapping[str, str], more: str, message: str
) -> None:
    write_project(tmp_path, files=files, without=["doc_to_text"])
    with (tmp_path / "tasks" / "plus.yaml").open("ab") as file:
        file.write(more.encode("utf-8", "surrogatepass"))
    assert message in refused(tmp_path)


GROUPS: dict[str, tuple[dict[str, str], str]] = {
    "no tasks": (
        {"tasks/g.yaml": "group: both\ntask: []\n"},
        "expected the tasks of the group 'both'",
    ),
    "no list": (
        {"tasks/g.yaml": "group: both\n"},
        "expected the tasks of the group 'both', found None",
    ),
    "a circle": (
        {
            "tasks/g.yaml": "group: both\ntask: [plus, inner]\n",
            "tasks/h.yaml": "group: inner\ntask: [both]\n",
        },
        "found both → inner → both",
    ),
    "itself": ({"tasks/g.yaml": "group: both\ntask: [both]\n"}, "found both → both"),
    "a task twice": (
        {"tasks/g.yaml": "group: both\ntask: [plus, plus]\n"},
        "'plus' is in the group 'bot",
    ),
    "a task twice below": (
        {
            "tasks/g.yaml": "group: both\ntask: [plus, inner]\n",
            "tasks/h.yaml": "group: inner\ntask: [plus]\n",
        },
        "'plus' is in 'both' twice",
    ),
    "settings of a group": (
        {
            "tasks/g.yaml": "group: both\ntask: [{task: inner, num_fewshot: 0}]\n",
            "tasks/h.yaml": "group: inner\ntask: [plus]\n",
        },
        "'inner' is a group; write",
    ),
    "a name in two files": (
        {"tasks/g.yaml": "group: both\ntask: [plus]\n", "tasks/again.yaml": "task: plus\n"},
        "'plus' stands in two files, /tasks/aga",
    ),
    "a broken file": (
        {"tasks/other.yaml": "group: both\ntask: [\n"},
        "/tasks/other.yaml:3: not valid YAM",
    ),
    "a broken file of a tag": (
        {"tasks/x.yaml": "task: x\ntag: both\n", "tasks/other.yaml": "a: [\n"},
        "/tasks/other.yaml:2: not valid YAML",
    ),
    "a list without a group": (
        {"tasks/other.yaml": "task: [plus]\n"},
        "a list of tasks needs a group: NA",
    ),
    "a bad task of its own": (
        {"tasks/g.yaml": "group: both\ntask: [{task: x, doc_to_text: q, test_split: test}]\n"},
        "/tasks/g.yaml: dataset_path: expected where the documents are, found nothing",
    ),
}


@pytest.mark.parametrize(("files", "message"), GROUPS.values(), ids=GROUPS)
def test_a_group_that_is_not_one_is_refused(
    tmp_path: Path, files: dict[str, str], message: str
) -> None:
    assert message in refused(write_project(tmp_path, files=files), task="both")


def test_a_task_is_scored_once(tmp_path: Path) -> None:
    write_project(tmp_path, files={"tasks/g.yaml": "group: both\ntask: [plus]\n"})
    told = refused(tmp_path, {"task": "both"}, {"task": "plus"})
    assert told == "Task plus: it is in 'both' and in 'plus' of the suite; take one out"


def test_a_broken_file_of_another_task_does_no_harm(tmp_path: Path) -> None:
    files = {"tasks/other.yaml": "a: [\n", "tasks/.#plus.yaml": "x", "tasks/common.yaml": "a: 1\n"}
    assert len(load(write_project(tmp_path, files=files))) == 1


def test_group_relative_files(tmp_path: Path) -> None:
    """Data are found next to the file that names them, wherever the group is."""
    moved = {"data_files": {"test": "../../data/docs.jsonl"}}
    inner = {**TASK, "task": "inner", "dataset_kwargs": moved}
    lines = "".join(
        f"  {key}: {json.dumps(value)}\n" for key, value in inner.items() if key != "task"
    )
    files = {
        "tasks/deep/g.yaml": "group: both\ntask:\n- plus\n- task: inner\n" + lines,
        "tasks/deep/h.yaml": (
            "group: moved\ntask:\n- task: plus\n  dataset_kwargs: {data_files: {test:"
            " ../../data/other.jsonl}}\n"
        ),
        "data/other.jsonl": '{"q": "other?", "a": "b"}\n',
    }
    write_project(tmp_path, files=files)
    assert [targets(leaf) for leaf in load(tmp_path, task="both")] == [
        [row["a"] for row in ROWS]
    ] * 2
    [leaf] = load(tmp_path, task="moved")
    assert texts(leaf) == ["other?"]


def test_a_prompt_is_found_next_to_the_file_that_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompt = "prompts:\n  mine: {doc_to_text: 'Q {{q}}', doc_to_target: '{{a}}'}\n"
    write_project(tmp_path, files={"tasks/p.yaml": prompt}, use_prompt="p.yaml:mine")
    monkeypatch.chdir("/")
    [leaf] = load(tmp_path)
    assert (texts(leaf)[0], targets(leaf)[0]) == ("Q what is 0?", "[1, 2, 3]")


def test_two_files_may_include_one(tmp_path: Path) -> None:
    files = {
        "tasks/a.yaml": "include: c.yaml\n",
        "tasks/b.yaml": "include: c.yaml\n",
        "tasks/c.yaml": "doc_to_text: '{{a}}'\n",
    }
    write_project(tmp_path, files=files, without=["doc_to_text"], include=["a.yaml", "b.yaml"])
    assert texts(load(tmp_path)[0])[0] == "[1, 2, 3]"


def test_a_function_is_the_one_in_the_file(tmp_path: Path) -> None:
    """Whatever dates the file and its compiled code have."""
    for word in ("one", "two"):
        code = f"def ask(doc): return '{word} ' + doc['q']\n"
        write_project(tmp_path, files={"tasks/u.py": code}, without=["doc_to_text"],
                      more="doc_to_text: !function u.ask\n")  # fmt: skip
        os.utime(tmp_path / "tasks" / "u.py", (0, 0))
        assert texts(load(tmp_path)[0])[0] == f"{word} what is 0?"
