from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from ruamel.yaml import YAML

from sweeper.analysis.comparison import SELECTION_NOTE, UNCONFIRMED_NOTE
from sweeper.analysis.server_costs import Share, charge
from sweeper.foundation.secrets import redact
from sweeper.records import ServerCost, ServerRecord, ServerStart
from sweeper.records.archive import NAME
from sweeper.records.study_record import StudyRecord
from sweeper.reporting.markdown.report import write_report
from sweeper.reporting.report_data import ReportData
from sweeper.reporting.summary import show_study
from sweeper.reporting.text.markdown_escape import as_yaml, cell, fenced, setting, table
from tests.support.example_study import (
    CONFIG,
    arm,
    completed,
    example_study,
    failed,
    study,
    trial,
)


def _report(record: StudyRecord, directory: Path) -> str:
    files = write_report(ReportData.of(record), directory)
    assert files[0] == directory / "report.md"
    assert all(file.is_file() for file in files)
    return files[0].read_text(encoding="utf-8")


def _links(text: str) -> list[str]:
    return re.findall(r"(?<!\\)\]\(([^)]+)\)", text)


def _tables(text: str) -> list[list[str]]:
    blocks = (block.splitlines() for block in text.split("\n\n"))
    return [block for block in blocks if block[0].startswith("| ")]


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("reports") / "adder"
    write_report(ReportData.of(example_study()), directory)
    return directory


@pytest.fixture(scope="module")
def text(directory: Path) -> str:
    return (directory / "report.md").read_text(encoding="utf-8")


def test_every_link_leads_to_a_file_of_the_report(directory: Path, text: str) -> None:
    links = _links(text)

    assert set(links) == {
        *("progress.png", "cost.png", "lmbda_beta.png", "importance.png", "effects.png")
    }
    assert {path.name for path in directory.iterdir()} == {"report.md", NAME, *links}


def test_it_mentions_each_arm_each_trial_and_each_failure(text: str) -> None:
    record = example_study()
    for one in record.arms:
        assert f"### {one.name}" in text
    assert len(re.findall(r"(?m)^\| \d+ \|", text)) == sum(len(a.trials) for a in record.arms)
    assert "- gkd #3: out of memory: CUDA out of memory" in text
    assert "- sft #5: diverged: loss is NaN at step 12" in text


def test_it_says_that_the_scores_are_those_of_the_search(text: str) -> None:
    assert f"{SELECTION_NOTE} {UNCONFIRMED_NOTE}" in text


def test_it_holds_what_is_needed_to_run_the_study_again(text: str) -> None:
    assert "sweeper run studies/adder.yaml --set trials=12" in text
    assert "| seed | 7 |" in text
    assert "| git revision | `0123456789abcdef` with local changes |" in text
    assert "trl 1.16.0" in text
    assert "cpu: 2 cores" in text
    assert "da7a" * 16 in text and "5a1e" * 16 in text
    assert "10 rows are longer than max_length and were dropped" in text
    # The last block; those before it are what the study recommends.
    *_, block = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    assert YAML(typ="safe", pure=True).load(block) == CONFIG


def test_all_rows_of_a_table_have_as_many_cells(text: str) -> None:
    tables = _tables(text)

    assert len(tables) >= 9
    for rows in tables:
        assert len({row.count(" | ") for row in rows}) == 1


def test_the_same_records_give_the_same_report(tmp_path: Path, directory: Path, text: str) -> None:
    assert _report(example_study(), tmp_path) == text
    for path in directory.iterdir():
        assert (tmp_path / path.name).read_bytes() == path.read_bytes()


def test_plots_of_an_earlier_report_do_not_stay(tmp_path: Path) -> None:
    _report(example_study(), tmp_path)
    # As version 0.1 left it.
    (tmp_path / "realised.png").touch()

    text = _report(study([arm("gkd", []), arm("sft", [])]), tmp_path)

    assert _links(text) == []
    assert {path.name for path in tmp_path.iterdir()} == {"report.md", NAME}


def test_a_study_where_everything_failed_has_a_report(tmp_path: Path) -> None:
    record = study([arm("gkd", [trial(0, failed())])], teacher=None, student=None)

    text = _report(record, tmp_path)

    assert "**No trial completed: there is nothing to compare.**" in text
    assert "not scored" in text


def test_remote_code_is_shown_when_it_was_on(tmp_path: Path, text: str) -> None:
    assert "Code from outside" not in text
    teacher = {"model": "hub/model", "trust_remote_code": True}
    record = study([arm("sft", [])], config={**CONFIG, "teacher": teacher})

    assert "`teacher.trust_remote_code`" in _report(record, tmp_path)


def test_hostile_text_cannot_break_the_page(tmp_path: Path) -> None:
    message = "bad | cell\n# heading <script>alert(1)</script> *bold* [link](http://x) ``` <b> `"
    record = study([arm("sft", [trial(0, failed("bug", message), **{"teacher.model": "a|b"})])])

    text = _report(record, tmp_path)

    assert "<script>" not in text and "<b>" not in text
    assert "\n# heading" not in text
    assert _links(text) == []
    for rows in _tables(text):
        assert len({len(re.findall(r"(?<!\\)\|", row)) for row in rows}) == 1


def test_secrets_stay_out(tmp_path: Path) -> None:
    config: dict[str, Any] = {
        **CONFIG,
        "tracking": {"uri": "postgresql://me:hunter2@host/db"},
        "teacher": {"model": "m", "init_kwargs": {"token": "hf_abc", "pad_token": "<pad>"}},
    }
    record = study([arm("sft", [trial(0, completed(0.5))])], config=config)
    record = record.model_copy(
        update={
            "provenance": record.provenance.model_copy(
                update={"command": "sweeper run a.yaml --set tracking.uri=http://u:hunter2@h"}
            )
        }
    )

    text = _report(record, tmp_path)

    assert "hunter2" not in text and "hf_abc" not in text
    assert "postgresql://me:***@host/db" in text
    assert "pad_token: '<pad>'" in text or "pad_token: <pad>" in text


def test_a_long_study_lists_its_best_and_its_last_trials(tmp_path: Path) -> None:
    trials = [trial(n, completed(0.5 + (n % 1000) / 10_000)) for n in range(3000)]

    text = _report(study([arm("sft", trials)]), tmp_path)

    rows = re.findall(r"(?m)^\| (\d+) \|", text)
    assert len(rows) == 200 - len({*range(2900, 3000)} & {999, 1999, 2999, *range(2967, 3000)})
    assert {"999", "1999", "2999", "2900"} <= set(rows)
    assert f"{len(rows)} of 3000 trials" in text


def test_settings_are_written_so_that_a_study_file_can_hold_them() -> None:
    assert setting("seq_kd", True) == "`seq_kd: true`"
    assert setting("learning_rate", 0.0012) == "`learning_rate: 0.0012`"
    assert setting("teacher.init_kwargs.token", "hf_abc") == '`teacher.init_kwargs.token: "***"`'


def test_yaml_reads_back_as_it_was() -> None:
    values = {"b": 5e-05, "a": [1, None, True, "yes", "1e-3"], "c": {"deep": (0.5, "x: y")}}

    text = as_yaml(values)

    assert YAML(typ="safe", pure=True).load(text) == {
        "b": 5e-05,
        "a": [1, None, True, "yes", "1e-3"],
        "c": {"deep": [0.5, "x: y"]},
    }
    assert text.index("b:") < text.index("a:")


def test_small_pieces_of_markdown() -> None:
    assert fenced("a ```` b", "sh") == "`````sh\na ```` b\n`````"
    assert cell("a|b `c|d` x_y _z_") == "a\\|b `c\\|d` x_y \\_z\\_"
    assert table(["a", "b"], [["1", "2"]], left=(0,)) == "| a | b |\n| :-- | --: |\n| 1 | 2 |"
    assert redact("x --set api_key=123 y") == "x --set api_key=*** y"


def test_it_says_what_served_the_teacher_and_how_often_it_was_started(tmp_path: Path) -> None:
    starts = [
        ServerStart(
            started=100.0 * number,
            last_seen=100.0 * number + 30,
            program="vllm 0.30.0",
            devices=("cuda:0", "cuda:1"),
        )
        for number in range(2)
    ]
    server = ServerRecord(role="teacher", model="big", starts=tuple(starts))
    record = example_study().model_copy(update={"servers": (server,)})
    text = _report(record, tmp_path)
    assert "| served teacher | vllm 0.30.0 on cuda:0, cuda:1 |" in text
    assert "| teacher's | big | vllm 0.30.0 on cuda:0, cuda:1 | 2 | 120 |" in text


def test_it_says_what_servers_cost_and_who_pays(tmp_path: Path) -> None:
    start = ServerStart(started=0.0, last_seen=50.0, program="vllm 0.30.0", devices=("cuda:1",))
    cost = ServerCost(device_seconds=50.0, idle=20.0)
    server = ServerRecord(role="teacher", model="big", starts=(start,), cost=cost)
    unused = server.model_copy(
        update={"cost": ServerCost(device_seconds=50.0, idle=50.0, unshared=50.0)}
    )
    record = example_study()
    shared = tuple(
        each.model_copy(
            update={"outcome": each.outcome and charge(each.outcome, {"teacher": Share(1.0, 0.5)})}
        )
        for each in record.arms[0].trials[:2]
    )
    first = record.arms[0].model_copy(update={"trials": (*shared, *record.arms[0].trials[2:])})
    changes = {"servers": (server, unused), "arms": (first, *record.arms[1:])}
    page = ReportData.of(record.model_copy(update=changes))
    write_report(page, tmp_path)
    text = (tmp_path / "report.md").read_text()
    row = "| teacher's | big | vllm 0.30.0 on cuda:1 | 1 | 50 |"
    assert f"{row} 20 | jobs that used it |" in text
    assert f"{row} 50 | no job |" in text
    assert "device-seconds of all trials | of these, servers |" in text
    assert "shares of served models' servers (gkd 3.0 of" in text
    screen = io.StringIO()
    show_study(page, Console(width=80, file=screen))
    shown = " ".join(screen.getvalue().split())
    assert "big · vllm 0.30.0 on cuda:1 · 1 start 50 device-seconds, 20 of them idle" in shown
    assert "50 device-seconds, all of them idle (no job used it)" in shown
