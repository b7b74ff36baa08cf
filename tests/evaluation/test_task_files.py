"""Task files: where their data are found, and what metrics mean."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from sweeper.foundation.errors import BadInputError
from tests.support.task_projects import TASK, load, texts, write_project
from tests.support.tiny_studies import write_yaml

ANSWERS = ["[1, 2, 3]", '{"a": 1}', "007", "1.0"]


def project(folder: Path, answers: list[str] = ANSWERS, **task: Any) -> Path:
    rows = [{"q": f"what is {i}?", "a": answer, "n": i} for i, answer in enumerate(answers)]
    return write_project(folder, rows, **task)


def test_documents_are_read_by_content(tmp_path: Path) -> None:
    for answers in (["1", "2"], ["3"]):
        project(tmp_path, answers)
        os.utime(tmp_path / "data" / "docs.jsonl", (0, 0))
        [leaf] = load(tmp_path)
        assert [leaf.document(i)["a"] for i in leaf.documents] == answers


def test_files_are_found_beside_the_file_that_names_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project(tmp_path)
    (tmp_path / "common").mkdir()
    data = {key: TASK[key] for key in ("dataset_path", "dataset_kwargs")}
    write_yaml(tmp_path / "common" / "data.txt", data)
    rest = {key: value for key, value in TASK.items() if key not in data}
    tasks = tmp_path / "tasks"
    write_yaml(tasks / "a.yaml", {**rest, "task": "pa", "include": "../common/data.txt"})
    (tasks / "deep").mkdir()
    files = {"data_files": {"test": "../../data/docs.jsonl"}}
    deep = {**TASK, "dataset_kwargs": files, "tag": "tagged"}
    write_yaml(tasks / "deep" / "b.yaml", {**deep, "task": "pb"})
    inline = {**TASK, "task": "pc"}
    write_yaml(tasks / "g.yaml", {"group": "both", "task": ["pa", "pb", inline]})
    monkeypatch.chdir("/")
    assert len(load(tmp_path, task="both")) == 3
    assert len(load(tmp_path, task="tagged")) == 1
    # An entry's own number of examples changes nothing about where files are.
    assert load(tmp_path, task="pa", num_fewshot=0)[0].document(0)["a"] == ANSWERS[0]


@pytest.mark.parametrize(
    ("task", "entry", "message"),
    [
        ({}, {"filter": "strict"}, "no filter 'strict'; the task has none"),
        ({}, {"metric": "acc"}, "no metric 'acc'; the task has exact_match"),
        ({}, {"cluster_by": "text"}, "no column 'text' (cluster_by); use one of q, a, n"),
        ({}, {"documents": (0, 99)}, "names the documents 0 to 99, but there are 4"),
        ({}, {"higher_is_better": False}, "higher_is_better is false for 'exact_match', but it is"),
        ({"metric_list": [{"metric": "exact_match", "aggregation": "mean",
                           "higher_is_better": False}]}, {},
         "lm-eval's own is better if it is higher"),
        ({"metric_list": [{"metric": "exact_match", "aggregation": "median"}]}, {},
         "aggregated by median, which is not the mean"),
        ({"metric_list": [{"metric": "bleu"}]}, {}, "aggregated by bleu, which is not the mean"),
        ({"metric_list": [{"metric": "near"}]}, {}, "the metric 'near' is not one of lm-eval's"),
        ({"test_split": "tests"}, {}, "no split 'tests'"),
    ],
)  # fmt: skip
def test_what_scoring_would_refuse_is_refused_when_tasks_are_loaded(
    tmp_path: Path, task: dict[str, Any], entry: dict[str, Any], message: str
) -> None:
    with pytest.raises(BadInputError) as caught:
        load(project(tmp_path, **task), **entry)
    assert message in str(caught.value)


def test_lines_of_a_text_are_documents(tmp_path: Path) -> None:
    kind = {"dataset_path": "text", "dataset_kwargs": {"data_files": {"test": "../data/a.txt"}}}
    files = {"data/a.txt": "\ufeffone\r\n\u2028two\nthree\n"}
    write_project(tmp_path, files=files, doc_to_text="text", doc_to_target="{{text}}", **kind)
    assert texts(load(tmp_path)[0]) == ["one", "\u2028two", "three"]


def test_a_direction_that_nobody_says_is_not_guessed(tmp_path: Path) -> None:
    project(tmp_path)
    (tmp_path / "tasks" / "u.py").write_text("def res(doc, results):\n    return {'near': 1.0}\n")
    path = tmp_path / "tasks" / "plus.yaml"
    listed = [{"metric": "near", "aggregation": "mean"}]
    write_yaml(path, {**TASK, "metric_list": listed})
    with path.open("a", encoding="utf-8") as file:
        file.write("process_results: !function u.res\n")
    with pytest.raises(BadInputError, match="nothing says whether a higher 'near' is better"):
        load(tmp_path)
    [leaf] = load(tmp_path, higher_is_better=False)
    assert (leaf.metric.shown, leaf.metric.higher_is_better) == ("near", False)


def test_a_perplexity_is_scored_by_nats(tmp_path: Path) -> None:
    listed = [{"metric": "perplexity", "aggregation": "perplexity", "higher_is_better": False}]
    [leaf] = load(project(tmp_path, output_type="loglikelihood", metric_list=listed))
    metric = leaf.metric
    assert (metric.shown, metric.higher_is_better) == ("nats", False)
