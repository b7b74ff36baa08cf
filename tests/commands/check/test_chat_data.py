"""``check`` of chat data: what the template does with it is told with the key that helps."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sweeper.commands.check.data_step import run_data_step
from sweeper.commands.check.run_checks import judge
from sweeper.config.loading import load_study
from tests.support.chat_templates import ASKED, OFF, SAID, TOOL, template
from tests.support.tiny_models import make_tiny
from tests.support.tiny_studies import adder_study, adder_suite, write_yaml


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, first, end in (("selection", 0, 4), ("test", 4, 8)):
        write_yaml(tmp_path / f"{name}.yaml", adder_suite(name, first, end))
    return tmp_path


def checked(folder: Path, rows: list[dict[str, Any]], **changes: Any) -> Any:
    """What check reports of a study on rows, whose models have the template of Qwen3."""
    models: dict[str, Any] = {
        role: {"model": make_tiny(folder / role, template=template("qwen3"), seed=seed)}
        for seed, role in enumerate(("teacher", "student"))
    }
    models["teacher"] |= changes.pop("of_teacher", {})
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "rows.jsonl").write_text(text, encoding="utf-8")
    data = {"train": {"path": "rows.jsonl"}, **changes.pop("data", {})}
    values = adder_study(data=data, **models, training={"max_length": 1000}, **changes)
    study = load_study(write_yaml(folder / "study.yaml", values))
    return judge(study, run_data_step(study, "cpu", folder / "cache"))


def messages(found: Any) -> set[str]:
    return {
        finding.detail.partition("; first: ")[0]
        for finding in found.findings
        if finding.what == "messages"
    }


def test_a_template_that_thinks_and_data_that_do_not(folder: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"messages": [{**ASKED, "content": f"What is {n}?", "name": "ann"}, SAID], "id": str(n)}
        for n in range(9)
    ]
    rows[4]["tools"] = [TOOL]
    [error] = checked(folder, rows).errors
    assert error.place.endswith(": data.chat_template_kwargs")
    assert error.detail.startswith("row 1 of rows.jsonl (line 1): expected a generation prompt and")
    assert "; 9 of 9 rows cannot be used" in error.detail
    assert "write data.chat_template_kwargs: {enable_thinking: false}" in error.detail
    found = checked(folder, rows, data={"chat_template_kwargs": OFF})
    assert not found.errors
    assert messages(found) == {"the chat template leaves out name of 9 user messages"}
    rows_found = next(f for f in found.findings if f.what == "training data")
    assert rows_found.detail.endswith("read from messages and tools, not from id")


def test_rows_that_end_with_a_question_where_references_are_trained(folder: Path) -> None:
    rows = [{"messages": [{**ASKED, "content": f"What is {n}?"}, SAID]} for n in range(9)]
    rows[2]["messages"] += [ASKED]
    off: dict[str, Any] = {"chat_template_kwargs": OFF, "assistant_turns": "all"}
    [error] = checked(folder, rows, data=off).errors
    assert (
        "1 of 9 rows end without one, the first of them row 3 of rows.jsonl (line 3)"
        in error.detail
    )


def test_what_the_teachers_own_template_leaves_out(folder: Path) -> None:
    rows = [
        {"messages": [{**ASKED, "content": f"What is {n}?"}, SAID], "tools": [TOOL]}
        for n in range(9)
    ]
    several = {"messages": [ASKED, SAID, {**ASKED, "content": "What else?"}, SAID]}
    text = template("qwen3").replace("{%- if tools %}", "{%- if false %}", 1)
    text = text.replace('message.role == "user"', 'message.role == "user" and loop.last')
    own: dict[str, Any] = {"chat_template_kwargs": OFF}
    teacher = {**own, "model": make_tiny(folder / "own", template=text, seed=0)}
    asked: dict[str, Any] = {"data": own, "of_teacher": teacher, "arms": {"seqkd": {}}}
    found = checked(folder, rows, **asked)
    assert not found.errors
    assert messages(found) == {"the teacher's chat template leaves out the tools of 9 rows"}
    [error] = checked(folder, [*rows, several], **asked).errors
    assert error.place.endswith(": teacher.chat_template_kwargs")
    assert "the teacher's chat template renders, but it leaves out the content" in error.detail
