"""Text that would steer a terminal, or be markup in a report, shows as it is written."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from sweeper.analysis.comparison import compare
from sweeper.config.yaml_file import read
from sweeper.foundation.errors import ConfigError
from sweeper.reporting.console import notice, show
from sweeper.reporting.live import LiveDisplay
from sweeper.reporting.markdown.report import write_report
from sweeper.reporting.report_data import ReportData
from sweeper.reporting.tables.comparison import ComparisonView
from sweeper.reporting.tables.trials import StatusView
from sweeper.reporting.text.markdown_escape import cell, code, fenced, inline, setting, table
from sweeper.reporting.text.terminal_escape import visible
from tests.support.example_study import arm, completed, study, trial
from tests.support.hostile_text import HOSTILE, hostile_study


@pytest.mark.parametrize("text", HOSTILE)
@pytest.mark.parametrize("terminal", [False, True])
def test_a_terminal_is_not_steered(text: str, terminal: bool) -> None:
    record = hostile_study(text)
    out = io.StringIO()
    # Without colours, every escape sequence would be a foreign one.
    console = Console(file=out, force_terminal=terminal, color_system=None, width=200)
    notice(record, console)
    show(ComparisonView(compare(record)), console)
    show(StatusView(record), console)
    with LiveDisplay(console) as display:
        display.message(text)
    shown = re.sub(r"\x1b\[(\d*[A-K]|\?25[lh]|0?m)|\r", "", out.getvalue())  # the live area's own
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u202e\ud800]", shown)
    assert "skull" in shown or "skull" not in text


@pytest.mark.parametrize("text", [t for t in HOSTILE if "\ud800" not in t])
def test_a_report_shows_it_as_text(text: str, tmp_path: Path) -> None:
    write_report(ReportData.of(hostile_study(text)), tmp_path)
    report = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u202e]", report)
    # What stands in code, in fences of any length, is no markup.
    outside = re.sub(r"(?ms)^(`{3,})\w*\n.*?^\1$", "", report)
    outside = re.sub(r"(?<!`)(`+)(?!`).*?(?<!`)\1(?!`)", "", outside)
    outside = outside.replace("<details>", "").replace("</details>", "")
    outside = re.sub(r"</?summary>", "", outside)
    assert "<" not in outside
    assert not re.search(r"(?<!\\)\]\(http", outside)
    assert not re.search(r"(?m)^# Heading", outside)


def test_bars_do_not_make_columns() -> None:
    rows = table(["a", "b"], [[cell("x | y \\| z"), cell("`p|q`")]]).splitlines()
    assert {len(re.findall(r"(?<!\\)\|", row)) for row in rows} == {3}


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain", "`plain`"),
        ("a`b", "`` a`b ``"),
        ("``", "``` `` ```"),
        ("two\nlines", "`two lines`"),
        ("\x1b[1m", "`\\x1b[1m`"),
    ],
)
def test_a_code_span_cannot_be_ended(text: str, shown: str) -> None:
    assert code(text) == shown


def test_a_setting_and_a_block_cannot_be_ended() -> None:
    assert setting("extra.x", "`<b>`") == '`` extra.x: "`<b>`" ``'
    assert fenced("```\n<b>\n````", "sh").startswith("`````sh\n")
    assert "\x1b" not in fenced("\x1b", "sh") + inline("\x1b")


def test_what_is_visible_stays() -> None:
    text = "Grüße, 你好 – \N{ROCKET} a\tb\nc"
    assert visible(text) == text
    assert visible("\x1b\x9b\u202e") == "\\x1b\\x9b\\u202e"


def test_an_unknown_key_cannot_steer_the_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from sweeper import cli

    file = tmp_path / "study.yaml"
    file.write_text('"\\e[2Jkey": 1\n"\\a": 2\n')
    assert "\x1b[2Jkey" in read(file).values
    monkeypatch.setattr("sys.argv", ["sweeper", "status", str(file)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    err = capsys.readouterr().err
    assert "\\x1b[2Jkey" in err
    assert "\x1b" not in err and "\x07" not in err


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({}, ""),
        ({"teacher": {"model": "m", "trust_remote_code": False}}, ""),
        (
            {"student": {"model": "a/b", "trust_remote_code": True}},
            "student.trust_remote_code (the code of a/b)",
        ),
        (
            {
                "teacher": {"model": "a/b", "trust_remote_code": True},
                "evaluation": {"allow_code_execution": True},
                "arms": {"gkd": {"settings": {"teacher.model": "c/d"}}, "sft": None},
            },
            "teacher.trust_remote_code (the code of a/b and c/d) and"
            " evaluation.allow_code_execution (what students answer)",
        ),
    ],
)
def test_foreign_code_is_named(config: dict[str, Any], expected: str, tmp_path: Path) -> None:
    record = study([arm("sft", [trial(0, completed(0.5))])], config=config)
    out = io.StringIO()
    notice(record, Console(file=out, width=300))
    assert (expected in out.getvalue()) if expected else not out.getvalue()
    write_report(ReportData.of(record), tmp_path)
    report = (tmp_path / "report.md").read_text()
    assert ("Code from outside was allowed to run" in report) == bool(expected)


def test_messages_of_files_do_not_need_a_terminal() -> None:
    with pytest.raises(ConfigError):
        read(Path("nowhere\x1b.yaml"))
