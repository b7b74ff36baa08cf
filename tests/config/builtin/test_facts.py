"""The questions of the SmolLM2 study: one answer each, separate splits, current files."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import pytest

from scripts.write_suites import write_facts
from sweeper.config import builtin
from sweeper.config.builtin import facts
from sweeper.config.loading import load_suite
from tests.support.tiny_studies import ROOT

SUITES = ROOT / "eval_suites" / "smollm2"


def test_no_question_is_asked_twice_within_or_across_splits() -> None:
    asked = [row["question"] for split in facts.SPLITS for row in facts.dataset(split)]
    assert len(set(asked)) == len(asked) > 500


def test_the_suite_finds_the_target_in_the_reference_answer() -> None:
    """With the task's own pattern, on what follows the beginning that the model is given."""
    task = (SUITES / "tasks" / "questions.yaml").read_text(encoding="utf-8")
    written = re.search(r'regex_pattern: "(.*)"', task)
    assert written is not None
    for split in facts.SPLITS:
        answers = {row["question"]: row["answer"] for row in facts.dataset(split)}
        for row in facts.questions(split):
            beginning, rest = answers[row["question"]].split(row["prefix"])
            assert beginning == ""
            assert re.findall(written[1], rest) == [row["target"]], row


def test_a_choice_has_its_right_answer_once() -> None:
    known = {word: home for home, words in facts.CONTINENTS.items() for word in words}
    for split in facts.SPLITS:
        for row in facts.choices(split):
            assert len(set(row["choices"])) == facts.CHOICES
            country = re.fullmatch(r"Where is (\w+)\?", row["question"])
            if country is not None and country[1] in known:
                assert row["choices"][row["gold"]] == known[country[1]]


def test_every_kind_is_in_every_split() -> None:
    for split, kind in itertools.product(facts.SPLITS, facts.KINDS.values()):
        before = kind["question"].partition("{0}")[0]
        assert any(row["question"].startswith(before) for row in facts.questions(split))


def test_the_committed_files_are_what_the_code_generates(tmp_path: Path) -> None:
    counts = write_facts(tmp_path)
    assert {path.stem for path in counts} == {"questions", "choices"}
    for path, count in counts.items():
        written = path.read_bytes()
        assert (ROOT / "eval_suites" / path.relative_to(tmp_path)).read_bytes() == written
        assert written.count(b"\n") == count


def test_the_suites_name_the_rows_of_their_split() -> None:
    selection, test = (
        {task.task: task.documents for task in load_suite(SUITES / name).config.tasks}
        for name in ("smollm2-selection.yaml", "smollm2-test.yaml")
    )
    for task, rows_of in (("questions", facts.questions), ("choices", facts.choices)):
        first, second = len(rows_of("selection")), len(rows_of("test"))
        assert (selection[task], test[task]) == ((0, first), (first, first + second))
    lines = (SUITES / "data" / "texts.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(set(lines)) == len(lines)
    assert selection["texts"] is not None and test["texts"] is not None
    assert selection["texts"][1] == test["texts"][0] and test["texts"][1] == len(lines)


def test_errors_state_the_rule_and_the_value() -> None:
    with pytest.raises(ValueError, match="must be one of train, selection, test, but got 'dev'"):
        builtin.dataset("facts", "dev")
