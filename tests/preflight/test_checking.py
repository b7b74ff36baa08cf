"""``check`` with real models, data and suites: one study that is well, and one that is not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from sweeper.analysis.findings import Finding, Preflight
from sweeper.config.loading import load_study
from sweeper.preflight.checking import check
from tests.conftest import ROOT, adder_study, adder_suite, write_yaml

ROWS = [{"question": f"{i} + 1 = ?", "answer": "# " * (i + 1)} for i in range(20)]
"""Prompts of 28 and 29 tokens; references of 3, 5, … and 41 with the token that ends them."""


def preflight(directory: Path, *further: dict[str, str], **changes: Any) -> Preflight:
    """The preflight of a study of rows that a user brings, written into ``directory``."""
    text = "".join(json.dumps(row) + "\n" for row in [*ROWS, *further])
    (directory / "rows.jsonl").write_text(text, encoding="utf-8")
    write_yaml(directory / "selection.yaml", adder_suite("selection", 0, 12))
    write_yaml(directory / "test.yaml", adder_suite("test", 12, 20))
    data = {"train": {"path": "rows.jsonl"}}
    values = adder_study(data=data, confirm={"seeds": 3}, **changes)
    study = write_yaml(directory / "study.yaml", values)
    found = check(load_study(study), directory / "runs")
    assert not (directory / "runs").exists(), "checking must not begin the study"
    return found


def by_name(found: Preflight) -> dict[str, Finding]:
    return {finding.what: finding for finding in found.findings}


def test_a_sound_study_is_told_what_is_known_of_it(
    tiny_teacher: str, tiny_student: str, tmp_path: Path
) -> None:
    checked = preflight(
        tmp_path,
        ROWS[3],
        teacher={"model": tiny_teacher},
        student={"model": tiny_student, "lora": {"r": 2}},
        training={"max_length": 60},
    )
    assert not checked.errors
    assert checked.design is not None and checked.design.documents == 8
    found = by_name(checked)
    assert found["training data"].detail.startswith("21 rows of rows.jsonl (train), all with")
    assert found["training data"].detail.endswith("read from question and answer")
    assert found["repeated prompts"].state == "warning"
    assert found["repeated prompts"].detail.startswith("1 of 21 prompts stand")
    assert found["vocabulary"].detail == "teacher and student share 259 tokens; 259 logits each"
    assert found["chat template"].state == found["end tokens"].state == "ok"
    assert found["end tokens"].detail == "an answer ends with <|endoftext|> or <|im_end|>"
    assert found["selection suite"].detail == "selection: 12 documents of addition"
    assert found["test suite"].detail == "test: 8 documents of addition"
    assert found["overlap"].state == "ok"
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
    checked = preflight(
        tmp_path,
        json.loads(shared),
        teacher={"model": "nobody/has-this-model"},
        student={"model": tiny_student},
        training={"max_length": 100, "extra": {"no_such_argument": 1}},
    )
    errors = {error.what: error for error in checked.errors}
    assert set(errors) == {"settings", "teacher", "selection suite"}
    assert errors["teacher"].place.startswith(f"{tmp_path / 'study.yaml'}:")
    assert errors["teacher"].place.endswith(": teacher.model")
    assert "nobody/has-this-model: it is not on this machine" in errors["teacher"].detail
    assert "no_such_argument" in errors["settings"].detail
    assert "1 of the suite selection are also in the" in errors["selection suite"].detail
    found = by_name(checked)
    assert "vocabulary" not in found, "it takes both tokenizers"
    assert found["training data"].detail.startswith("21 rows")
    assert found["max_length"].state == "ok"
    assert found["max_new_tokens"].state == "warning"
    assert found["test suite"].state == "ok"
