"""A diagnosis of the pair beside what came out: in the report, in the terminal, as JSON."""

from __future__ import annotations

import io
from pathlib import Path

from rich.console import Console

from sweeper.analysis.across_studies import compare_studies
from sweeper.records import Outcome
from sweeper.records.archive import read_records
from sweeper.records.study_record import StudyRecord
from sweeper.reporting.console import show
from sweeper.reporting.json_output import study_json
from sweeper.reporting.markdown.report import write_report
from sweeper.reporting.report_data import ReportData
from sweeper.reporting.summary import show_study
from sweeper.reporting.tables.studies import StudiesView
from tests.support.confirmed_study import confirmed_study
from tests.support.example_study import example_study
from tests.support.pairs import answer, diagnosis, prompt

MARK = "<|im_start|>"
WORRYING = diagnosis(
    prompt(answer(shared=0.4, template_marks=(MARK,))), *[prompt(answer(shared=0.5))] * 7
)


def probed(outcome: Outcome = WORRYING, *, record: StudyRecord | None = None) -> StudyRecord:
    return (record or example_study(6)).model_copy(update={"pair": outcome})


def printed(record: StudyRecord) -> str:
    out = io.StringIO()
    show_study(ReportData.of(record), Console(file=out, width=100))
    return " ".join(out.getvalue().split())


def test_the_report_has_each_number_with_its_meaning_and_what_came_out(tmp_path: Path) -> None:
    page = ReportData.of(probed())
    write_report(page, tmp_path)
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    section = text.split("## The pair before training")[1].split("\n## ")[0]
    assert "What came out: " in section
    for measure in (
        *("student's answers", "teacher's answers", "entropy", "first token", "length and end"),
        *("**shared top 16**", "**marks**"),
    ):
        assert f"| {measure} |" in section
    assert "KL(student‖teacher)" in section and r"0.500 \[0.500, 0.500\]" in section
    assert r"- shared top 16: 49 % \[46, 52\]" in section
    assert r"&lt;\|im_start\|> in 1 of 8 answers" in section and MARK not in text
    assert read_records(tmp_path / "records.json.gz").pair is not None


def test_the_terminal_and_json_have_it(tmp_path: Path) -> None:
    shown = printed(probed())
    assert "The pair before training" in shown and MARK in shown
    assert "Bring the student closer first" in shown
    [found] = study_json(ReportData.of(probed()))["pair"]
    assert found["concerns"] == ["little_shared", "marks"]
    assert len(found["warnings"]) == 2


def test_a_study_that_was_not_probed_says_nothing_of_it(tmp_path: Path) -> None:
    record = example_study(6)
    write_report(ReportData.of(record), tmp_path)
    assert "The pair" not in (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "The pair" not in printed(record)
    assert "pair" not in study_json(ReportData.of(record))


def test_studies_show_their_pairs_beside_what_came_out() -> None:
    records = [
        probed(diagnosis(), record=confirmed_study(1, name="a", trials=6)),
        probed(record=confirmed_study(2, name="b", trials=6)),
    ]
    out = io.StringIO()
    show(StudiesView(compare_studies(records)), Console(file=out, width=200))
    table = out.getvalue().split("The pair of each study before training")[1]
    assert "0.95 [0.95, 0.95]" in table and "0.49 [0.46, 0.52]" in table
