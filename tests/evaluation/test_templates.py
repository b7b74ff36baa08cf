"""Prompts, targets and choices are what the documents hold, whatever they look like."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sweeper.commands.init.local_data import HeldOut
from sweeper.commands.init.suites import held_out_files
from sweeper.config.loading import load_suite
from sweeper.evaluation.tasks import load_tasks
from sweeper.study.manifest import suite_spec
from tests.support.task_projects import CHOICES, choices, load, targets, texts, write_project

ANSWERS = ["[1, 2, 3]", '{"a": 1}', "007", "1.0", "True", "None", "'x'", "(1,)", "1e5", " padded ",
           '"quoted"', "2024-01-01", "[]", "['a']", "a\\nb", "{{q}}", "null"]  # fmt: skip
HELD = [{"q": f"what is {i}?", "a": answer, "n": i} for i, answer in enumerate(ANSWERS)]


@pytest.mark.parametrize(
    "target", ["{{a}}", "a", "{{a}}{{''}}", "{% if a %}{{a}}{% endif %}", "{{ a | string }}",
               "{% set x = a %}{{ x }}", "{# as it is #}{{a}}"]
)  # fmt: skip
def test_targets_stay_what_the_documents_hold(tmp_path: Path, target: str) -> None:
    [leaf] = load(write_project(tmp_path, HELD, doc_to_target=target))
    assert targets(leaf) == ANSWERS
    assert not leaf.task.multiple_target


@pytest.mark.parametrize("output", ["loglikelihood", "loglikelihood_rolling"])
def test_texts_whose_likelihood_is_scored_stay_what_they_are(tmp_path: Path, output: str) -> None:
    metric = "acc" if output == "loglikelihood" else "byte_perplexity"
    settings = {"output_type": output, "metric_list": [{"metric": metric}]}
    settings |= {"generation_kwargs": None, "doc_to_text": ""}
    [leaf] = load(write_project(tmp_path, HELD, doc_to_target="{{a}}{{''}}", **settings))
    assert targets(leaf) == ANSWERS


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("[{{n}}, 2]", ["[0, 2]", "[1, 2]", "[0, 2]"]),
        ("n", ["0", "1", "0"]),
        ("{{n == 1}}", ["False", "True", "False"]),
        ("c", [["nay", "yea"]] * 3),
        ("{{c}}", [["nay", "yea"]] * 3),
        ("{{[a, n]}}", [["[1, 2, 3]", "0"], ["007", "1"], ["aye", "0"]]),
        ("I do not know", ["I do not know"] * 3),
        ("{{ x | default(a) }}", ["[1, 2, 3]", "007", "aye"]),
        ("{% if x is defined %}{{x}}{% else %}-{% endif %}", ["-"] * 3),
    ],
)
def test_only_a_list_that_is_meant_gives_several_targets(
    tmp_path: Path, target: str, expected: list[Any]
) -> None:
    [leaf] = load(write_project(tmp_path, doc_to_target=target))
    assert targets(leaf) == expected


def test_examples_in_a_prompt_show_what_the_documents_hold(tmp_path: Path) -> None:
    examples = {"samples": [{"q": "first?", "a": "[1, 2]"}], "doc_to_target": "{{a}}{{''}}"}
    [leaf] = load(write_project(tmp_path, fewshot_config=examples), num_fewshot=1)
    prompt = leaf.task.fewshot_context(leaf.document(1), num_fewshot=1)
    assert prompt == "first? [1, 2]\n\nwhat is 1?"


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ("c", ["nay", "yea"]),
        ("{{c}}", ["nay", "yea"]),
        ('["{{a}}", "not {{a}}"]', ["[1, 2, 3]", "not [1, 2, 3]"]),
        ("{{[a, n]}}", ["[1, 2, 3]", "0"]),
        ('["q?", "{{q}}"]', ["q?", "what is 0?"]),
        (["nay", "yea"], ["nay", "yea"]),
        ({"A": "nay", "B": "yea"}, ["nay", "yea"]),
    ],
)
def test_choices_are_texts(tmp_path: Path, choice: Any, expected: list[str]) -> None:
    [leaf] = load(write_project(tmp_path, **{**CHOICES, "doc_to_choice": choice}))
    assert choices(leaf)[0] == expected
    assert targets(leaf) == [0, 1, 0]


def test_letters_of_choices_may_be_the_names_of_their_columns(tmp_path: Path) -> None:
    rows = [{"q": "?", "A": "one", "B": "two", "gold": "B"}]
    settings = {**CHOICES, "doc_to_choice": ["A", "B"], "doc_to_target": "gold"}
    [leaf] = load(write_project(tmp_path, rows, doc_to_text="{{q}} A. {{A}} B. {{B}}", **settings))
    assert (targets(leaf), choices(leaf)) == (["B"], [["A", "B"]])


def test_choices_with_quotes_and_backslashes_stay_what_they_are(tmp_path: Path) -> None:
    hard = ["it's", 'a "b"', "C:\\new", "[1]", "line\nbreak"]
    rows = [{"q": "?", "a": text, "n": 0} for text in hard]
    settings = {**CHOICES, "doc_to_choice": '["{{a}}", "other"]'}
    [leaf] = load(write_project(tmp_path, rows, **settings))
    assert choices(leaf) == [[text, "other"] for text in hard]


@pytest.mark.parametrize(
    ("target", "choice", "expected"),
    [
        ("{{t}}", "{{c}}", [0, 1, 0]),  # digits of a template are lm-eval's index
        ("t", ["0", "1"], ["0", "1", "0"]),  # the text of a column is a choice itself
        ("{{n}}", ["1", "2"], [0, 1, 0]),
        (1, "{{c}}", [1, 1, 1]),
        (0, ["1", "0"], [0, 0, 0]),
        ("{{c[n]}}", "{{c}}", ["nay", "yea", "nay"]),
        ("{{n == 1}}", ["False", "True"], ["False", "True", "False"]),
        ("yea", ["yea", "nay"], ["yea"] * 3),
        ("{{[0, 1]}}", "{{c}}", [[0, 1]] * 3),
    ],
)
def test_a_target_among_choices_is_an_index_or_a_text(
    tmp_path: Path, target: Any, choice: Any, expected: list[Any]
) -> None:
    settings = {**CHOICES, "doc_to_choice": choice, "doc_to_target": target}
    [leaf] = load(write_project(tmp_path, **settings))
    assert targets(leaf) == expected


def test_an_index_of_prompts_stays_one(tmp_path: Path) -> None:
    settings = {**CHOICES, "doc_to_text": "{{n}}", "doc_to_target": "{{a}}"}
    [leaf] = load(write_project(tmp_path, **settings))
    assert texts(leaf) == [0, 1, 0]
    assert leaf.task.multiple_input == 2


def test_init_list_answers(tmp_path: Path) -> None:
    """The suites that ``init`` writes give points to answers that look like Python."""
    answers = ("[1, 2, 3]", "[4]", "'x'")
    pairs = tuple((f"question {i}", answer) for i, answer in enumerate(answers))
    for name, content in held_out_files("study", HeldOut((), pairs[:2], pairs[2:])).items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content, encoding="utf-8")
    assert json.loads((tmp_path / "held-out.jsonl").read_text().splitlines()[0])
    [leaf] = load_tasks(suite_spec(load_suite(tmp_path / "selection.yaml")))
    assert targets(leaf) == ["[1, 2, 3]", "[4]"]
    document = leaf.document(0)
    assert leaf.task.process_results(document, ["[1, 2, 3]"])["exact_match"] == 1.0
    assert leaf.task.process_results(document, ["1"])["exact_match"] == 0.0
