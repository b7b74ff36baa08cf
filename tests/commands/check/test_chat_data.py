"""``check`` of chat data: what the template does with it is told with the key that helps."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from sweeper.commands.check.data_step import run_data_step
from sweeper.commands.check.run_checks import judge
from sweeper.config.loading import load_study
from tests.support.chat_templates import ASKED, OFF, SAID, TOOL, template
from tests.support.tiny_models import make_tiny
from tests.support.tiny_studies import adder_study, adder_suite, write_yaml


def test_a_template_that_thinks_and_data_that_do_not(tmp_path: Path) -> None:
    models = {
        role: {"model": make_tiny(tmp_path / role, template=template("qwen3"), seed=seed)}
        for seed, role in enumerate(("teacher", "student"))
    }
    rows = [
        {"messages": [{**ASKED, "content": f"What is {n}?", "name": "ann"}, SAID]} for n in range(9)
    ]
    rows[4]["tools"] = [TOOL]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / "rows.jsonl").write_text(text, encoding="utf-8")
    for name, first, end in (("selection", 0, 4), ("test", 4, 8)):
        write_yaml(tmp_path / f"{name}.yaml", adder_suite(name, first, end))

    def checked(**keys: Any) -> Any:
        data = {"train": {"path": "rows.jsonl"}, **keys}
        values = adder_study(data=data, **models, training={"max_length": 1000})
        study = load_study(write_yaml(tmp_path / "study.yaml", values))
        return judge(study, run_data_step(study, "cpu", tmp_path / "cache"))

    [error] = checked().errors
    assert error.place.endswith(": data.chat_template_kwargs")
    assert "row 1: expected a generation prompt and a reference answer that agree" in error.detail
    assert "write data.chat_template_kwargs: {enable_thinking: false}" in error.detail
    found = checked(chat_template_kwargs=OFF)
    assert not found.errors
    told = {finding.detail for finding in found.findings if finding.what == "messages"}
    assert told == {"the chat template leaves out name of 9 user messages"}
    rows_found = next(f for f in found.findings if f.what == "training data")
    assert rows_found.detail.endswith("read from messages and tools")
