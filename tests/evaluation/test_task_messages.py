"""What a run could refuse later, or misread, of a suite is refused when its tasks are loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.support.task_projects import CHOICES, ROWS, TASK, refused, write_project

COLUMNS = "the columns are q, a, n, c, t"
TASK_VALUES: dict[str, tuple[dict[str, Any], str]] = {
    "a word that is no column": (
        {"doc_to_text": "question"},
        f"doc_to_text: no column 'question', and no template; {COLUMNS}",
    ),
    "a target that is no column": (
        {"doc_to_target": "answer"},
        f"doc_to_target: no column 'answer', and no template; {COLUMNS}",
    ),
    "choices that are no column": (
        {**CHOICES, "doc_to_choice": "options"},
        "doc_to_choice: no column 'options', and no templ",
    ),
    "one prompt for all": (
        {"doc_to_text": "Answer the question."},
        "'Answer the question.' asks every document the sam",
    ),
    "no prompt": ({"doc_to_text": ""}, "document 0: doc_to_text: expected a prompt, found none"),
    "a target that is no text": ({"doc_to_target": True}, "found True; quote it if it is text"),
    "a number for all": (
        {"doc_to_target": 3},
        "doc_to_target: expected a column or a template, fou",
    ),
    "targets written as a list": (
        {"doc_to_target": ["a"]},
        "doc_to_target: expected a column or a",
    ),
    "no target": (
        {"doc_to_target": None},
        "doc_to_target: expected a column or a template, found n",
    ),
    "an undefined name": ({"doc_to_text": "{{questoin}}"}, f"'questoin' is undefined; {COLUMNS}"),
    "an undefined name in a branch": (
        {"doc_to_text": "{{q}}{% if n > 5 %}{{typo}}{% endif %}"},
        "no column 'typo' for '{{q}}",
    ),
    "an undefined part": (
        {"doc_to_target": "{{a.text}}"},
        "has no attribute 'text'; the columns are",
    ),
    "a broken template": (
        {"doc_to_target": "{{a"},
        "not a valid template (line 1): unexpected end",
    ),
    "an unknown jinja filter": ({"doc_to_target": "{{a|loud}}"}, "No filter named 'loud'"),
    "an undefined name before a prompt": (
        {"description": "{{typo}}"},
        "description: no column 'typo'",
    ),
    "an undefined name of a prefix": ({"gen_prefix": "{{typo}}"}, "gen_prefix: no column 'typo'"),
    "a mapping": (
        {"doc_to_target": "{{ {'a': 1} }}"},
        "doc_to_target: expected text, found {'a': 1}",
    ),
    "a list as prompt": ({"doc_to_text": "c"}, "doc_to_text: expected text, found ['nay', 'yea']"),
    "columns in a list": (
        {**CHOICES, "doc_to_choice": ["q", "a"]},
        "doc_to_choice: 'q' is a column, and would be taken",
    ),
    "columns in a written list": (
        {**CHOICES, "doc_to_choice": '["q", "a"]'},
        "doc_to_choice: 'q' is a column, and would be taken",
    ),
    "templates in a list": (
        {**CHOICES, "doc_to_choice": ["{{q}}", "{{a}}"]},
        "doc_to_choice: expected texts, found '{{q}}'",
    ),
    "choices that are text": (
        {**CHOICES, "doc_to_choice": "a"},
        "doc_to_choice: expected a list, found the text '[1, 2, 3]'",
    ),
    "no choices": (
        {"output_type": "multiple_choice"},
        "doc_to_choice: expected the choices, as mult",
    ),
    "one choice": (
        {**CHOICES, "doc_to_choice": ["a b"]},
        "expected two choices or more, none of them",
    ),
    "an empty choice": (
        {**CHOICES, "doc_to_choice": ["", "b"]},
        "expected two choices or more, none",
    ),
    "an index too large": (
        {**CHOICES, "doc_to_target": 2},
        "expected one of the choices ['nay', 'yea'], or its index from",
    ),
    "an index below 0": (
        {**CHOICES, "doc_to_target": "{{n - 2}}"},
        "or its index from 0, found -2",
    ),
    "a target that is no choice": ({**CHOICES, "doc_to_target": "{{a}}"}, "found '[1, 2, 3]'"),
    "an index or a text": (
        {**CHOICES, "doc_to_choice": ["1", "0"], "doc_to_target": "{{t}}"},
        "0 is an index, and the text of another one of ['1', '0']",
    ),
    "prompts that are numbers": (
        {**CHOICES, "doc_to_text": "{{t}}"},
        "doc_to_text: every prompt is a number; if it is the index",
    ),
    "an unknown key": (
        {"doc_to_txt": "a"},
        "doc_to_txt: lm-eval has no such key of a task; did you me",
    ),
    "a prefix that is no text": (
        {"gen_prefix": "c"},
        "document 0: gen_prefix: expected text, found [",
    ),
    "a prefix that fails": (
        {"gen_prefix": "{{1 / n}}"},
        "document 0: gen_prefix: '{{1 / n}}' cannot be",
    ),
    "no data": (
        {"dataset_path": None},
        "dataset_path: expected where the documents are, found nothing",
    ),
    "an unknown output": (
        {"output_type": "gen"},
        "output_type: expected one of loglikelihood, multiple",
    ),
    "a function without its tag": (
        {"process_results": "utils.f"},
        "process_results: expected a function, found 'utils.f'; write",
    ),
    "no split": ({"test_split": None}, "test_split: expected the split to score, found none"),
    "an unknown split": (
        {"test_split": "tests"},
        "no split 'tests' in data_files of the task plus, whi",
    ),
    "an unknown split of examples": (
        {"fewshot_config": {"split": "dev"}},
        "no split 'dev' in data_file",
    ),
    "a file that is not there": (
        {"dataset_kwargs": {"data_files": {"test": "gone.jsonl"}}},
        "no file or folder /tasks/gone.jsonl",
    ),
    "a folder that is not there": (
        {"dataset_path": "../gone"},
        "expected a folder, found '../gone'",
    ),
    "a file as a folder": (
        {"dataset_path": "../data/docs.jsonl"},
        "for a file, write dataset_path: json",
    ),
    "an option of another reader": (
        {"dataset_kwargs": {**TASK["dataset_kwargs"], "delimiter": ";"}},
        "dataset_kwargs.delimiter: loca",
    ),
    "no files": (
        {"dataset_kwargs": {}},
        "expected the files of the documents next to dataset_path",
    ),
    "no such folder of files": (
        {"dataset_kwargs": {"data_dir": "gone"}},
        "expected the files of the",
    ),
    "another kind of files": (
        {"dataset_path": "xml"},
        "dataset_path: local files are one of json, csv",
    ),
    "a number as file": ({"dataset_kwargs": {"data_files": 5}}, "expected names of files, found 5"),
    "settings that are a list": (
        {"generation_kwargs": ["a"]},
        "generation_kwargs: expected keys with v",
    ),
    "metrics that are a name": (
        {"metric_list": "exact_match"},
        "metric_list: expected a list, found 'ex",
    ),
    "an unknown metric": (
        {"metric_list": [{"metric": "exact", "aggregation": "mean"}]},
        "lm-eval has no metric 'exact'",
    ),
    "an unknown aggregation": (
        {"metric_list": [{"metric": "exact_match", "aggregation": "avg"}]},
        "lm-eval has no 'avg'; it has",
    ),
    "a prompt of the library": (
        {"use_prompt": "qa-basic:q-newline-a"},
        "use_prompt: expected FILE.yaml:",
    ),
    "an unknown key of examples": (
        {"fewshot_config": {"sample": []}},
        "fewshot_config.sample: lm-eval h",
    ),
}


@pytest.mark.parametrize(("values", "message"), TASK_VALUES.values(), ids=TASK_VALUES)
def test_a_value_that_cannot_be_meant_is_refused(
    tmp_path: Path, values: dict[str, Any], message: str
) -> None:
    told = refused(write_project(tmp_path, **values))
    assert message in told
    assert "plus" in told


SETTINGS: list[tuple[dict[str, Any], str]] = [
    ({"until": 5}, "until: expected texts that end an answer, or [], found 5"),
    ({"until": ["a", None]}, "until: expected texts that end an answer"),
    ({"until": [""]}, "until: expected texts that end an answer"),
    ({"max_gen_toks": 0}, "max_gen_toks: expected a whole number above 0, found 0"),
    ({"max_gen_toks": "64"}, "max_gen_toks: expected a whole number above 0, found '64'"),
    ({"max_gen_toks": True}, "max_gen_toks: expected a whole number above 0, found True"),
    ({"max_gen_toks": 5, "max_new_tokens": 6}, "expected one length, found max_gen_toks, max_new"),
    ({"do_sample": "never"}, "do_sample: expected true or false, found 'never'"),
    ({"do_sample": True}, "temperature: expected a number above 0 next to do_sample: true"),
    ({"temperature": -1}, "temperature: expected a number of at least 0, found -1"),
    ({"temperature": "hot"}, "temperature: expected a number of at least 0, found 'hot'"),
    ({"top_p": 2}, "top_p: expected a number from 0 to 1, found 2"),
    ({"num_beams": 0}, "num_beams: expected a number of at least 1, found 0"),
    ({"beams": 1}, "generation_kwargs.beams: no such setting of an answer"),
    ({"max_length": 9}, "generation_kwargs.max_length: no such setting of an answer"),
]


@pytest.mark.parametrize(("settings", "message"), SETTINGS)
def test_settings_that_no_answer_can_have_are_refused(
    tmp_path: Path, settings: dict[str, Any], message: str
) -> None:
    assert message in refused(write_project(tmp_path, generation_kwargs=settings))


FIRST = {"function": "take_first"}
FILTERS: list[tuple[Any, str]] = [
    ("strict", "filter_list: expected a list, found 'strict'"),
    ([], "filter_list: expected a filter, found []; leave the key out for none"),
    ([{"name": "x"}], "filter_list.0: expected name: NAME and filter: with a list"),
    ([{"name": "x", "filter": [{"function": "nope"}]}], "lm-eval has no filter 'nope'; it has"),
    ([{"name": "x", "filter": [{"function": "regex", "regex_pattern": "("}]}], "missing )"),
    ([{"name": "x", "filter": [{"function": "regex", "pattern": "a"}]}], "argument 'pattern'"),
    ([{"name": "x", "filter": [{"function": "regex", "group_select": "a"}]}], "as group_select of"),
    (
        [{"name": "x", "filter": [{"function": "take_first_k", "k": 3}]}],
        "Need at least 3 responses",
    ),
    (
        [{"name": "x", "filter": [FIRST]}] * 2,
        "filter_list.1.name: the filter 'x' stands there twice",
    ),
]


@pytest.mark.parametrize(("filters", "message"), FILTERS)
def test_filters_that_cannot_be_applied_are_refused(
    tmp_path: Path, filters: Any, message: str
) -> None:
    assert message in refused(write_project(tmp_path, filter_list=filters), filter="x")


def test_late_filter(tmp_path: Path) -> None:
    """A filter that the task lacks is found when its suite is loaded."""
    told = refused(write_project(tmp_path), documents=(0, 2), filter="strict-match")
    assert told == "Task plus: no filter 'strict-match'; the task has none."


def test_unknown_split(tmp_path: Path) -> None:
    told = refused(write_project(tmp_path, test_split="tests"), limit=5)
    assert "no split 'tests' in data_files of the task plus, which has test" in told
    assert "/tasks/plus.yaml" in told


EXAMPLES: dict[str, tuple[dict[str, Any], int, str]] = {
    "none but the documents": (
        {},
        1,
        "fewshot_split: document 0 may be an example in its own prompt",
    ),
    "the documents by another name": (
        {
            "dataset_kwargs": {
                "data_files": dict.fromkeys(("test", "train"), "../data/docs.jsonl")
            },
            "training_split": "train",
        },
        1,
        "document 0 may be an example in its own prompt",
    ),
    "too few": (
        {"fewshot_split": "test"},
        3,
        "expected at most 2, the number of examples there are",
    ),
    "too few samples": (
        {"fewshot_config": {"samples": [{"q": "x", "a": "y"}]}},
        2,
        "num_fewshot: expected at most 1",
    ),
    "without a column": (
        {"fewshot_config": {"samples": [{"q": "x", "b": "y"}]}},
        1,
        "no column 'a' for '{{a}}'; the col",
    ),
    "without a value": (
        {"fewshot_config": {"samples": [{"q": "x", "a": None}]}},
        1,
        "doc_to_target: expected text, fou",
    ),
}


@pytest.mark.parametrize(("values", "shots", "message"), EXAMPLES.values(), ids=EXAMPLES)
def test_examples_that_cannot_be_shown_are_refused(
    tmp_path: Path, values: dict[str, Any], shots: int, message: str
) -> None:
    assert message in refused(write_project(tmp_path, **values), num_fewshot=shots)


DOCUMENTS: dict[str, tuple[list[dict[str, Any]], dict[str, Any], str]] = {
    "none": ([], {}, "expected documents, found none in /data/docs.jsonl"),
    "no answer": ([*ROWS, {"q": "?"}], {}, "document 3: doc_to_target: expected text, found null"),
    "no question": ([*ROWS, {"a": "x"}], {}, "document 3: doc_to_text: expected text, found null"),
    "no question within a text": (
        [*ROWS, {"a": "x"}],
        {"doc_to_text": "{% if q %}{{q}}{% endif %}"},
        "document 3: doc_to_text: ex",
    ),
    "a null within a text": (
        [*ROWS, {"a": "x"}],
        {"doc_to_text": "Q: {{q}}"},
        "a value of 'Q: {{q}}' is null (null here: q, ",
    ),
    "rows of two kinds": (
        [{"q": "?", "a": "x"}, {"q": "?", "a": ["x"]}],
        {},
        "values of one kind in 'a'",
    ),
    "an empty list": ([{"q": "?", "a": ["x"]}, {"q": "?", "a": []}], {}, "expected text, found []"),
    "a text and a list": (
        [{"q": "?", "a": ["x", "y"], "n": i} for i in range(2)],
        {"doc_to_target": "{% if n %}{{a}}{% else %}{{a[0]}}{% endif %}"},
        "expected one kind of target",
    ),
    "an empty text": (
        [{"q": "?", "a": ""}],
        {
            "output_type": "loglikelihood",
            "metric_list": [{"metric": "acc"}],
            "generation_kwargs": {},
        },
        "expected the text to score, found none",
    ),
}


@pytest.mark.parametrize(("rows", "values", "message"), DOCUMENTS.values(), ids=DOCUMENTS)
def test_a_document_that_cannot_be_scored_is_named(
    tmp_path: Path, rows: list[dict[str, Any]], values: dict[str, Any], message: str
) -> None:
    assert message in refused(write_project(tmp_path, rows, **values))


def test_a_cluster_needs_a_value(tmp_path: Path) -> None:
    rows = [{**ROWS[0], "text": "x"}, {**ROWS[1], "text": None}]
    told = refused(write_project(tmp_path, rows), cluster_by="text")
    assert "document 1: expected a value in 'text' (cluster_by), found none" in told
