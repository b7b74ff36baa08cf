"""The page of a study with a verdict: the verdict first, then everything else in its order."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from matplotlib.text import Text as Label
from rich.console import Console

from sweeper.analysis.comparison import CONFIRMED_NOTE, UNCONFIRMED_NOTE, compare
from sweeper.analysis.recommendation import recommend
from sweeper.analysis.verdict import verdict_of
from sweeper.analysis.verdict_records import Verdict
from sweeper.records.study_record import StudyRecord
from sweeper.reporting.json_output import study_json
from sweeper.reporting.markdown.report import write_report
from sweeper.reporting.plots.verdict import verdict_plot
from sweeper.reporting.report_data import ReportData
from sweeper.reporting.summary import show_study
from tests.support.confirmed_study import confirmed_study
from tests.support.example_study import example_study


@pytest.fixture(scope="module")
def record() -> StudyRecord:
    return confirmed_study()


@pytest.fixture(scope="module")
def page(record: StudyRecord, tmp_path_factory: pytest.TempPathFactory) -> str:
    directory = tmp_path_factory.mktemp("reports")
    return write_report(ReportData.of(record), directory)[0].read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def verdict(record: StudyRecord) -> Verdict:
    found = verdict_of(record, "gkd")
    assert found is not None
    return found


def terminal(record: StudyRecord, width: int) -> str:
    console = Console(width=width, file=io.StringIO())
    show_study(ReportData.of(record), console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_the_page_has_its_parts_in_their_order(page: str) -> None:
    places = [
        page.index(text)
        for text in (
            "**On the test suite",
            "## The winners on the test suite addition-test, at equal steps",
            "## The winners on the test suite addition-test, at equal device seconds",
            "### Matched conditions",
            "![The verdict](verdict.png)",
            "## The search",
            "![Score by trial](progress.png)",
            "## Details",
            "### The comparisons on the test suite",
            "### gkd",
            "## Data",
            "## Reproduction",
        )
    ]
    assert places == sorted(places)


def test_the_table_has_each_arm_with_its_difference(page: str, verdict: Verdict) -> None:
    table = page.split("at equal steps\n\n")[1].split("\n\n")[0].replace("\u00a0", " ")
    rows = {row.split(" | ")[0].strip("|* "): row for row in table.splitlines()[2:]}
    for arm in verdict.at("steps"):
        row = rows[f"{arm.arm} #{arm.trial}"]
        assert f"{arm.test.mean:.3f} \\[{arm.test.low:.3f}, {arm.test.high:.3f}\\]" in row
        assert f"| {arm.inflation:+.3f} |" in row
    for pair in verdict.pairs:
        if pair.at == "steps":
            [row] = [row for name, row in rows.items() if name.startswith(f"{pair.against} #")]
            assert f"| {pair.difference:+.3f} \\[" in row
            assert f" {pair.conclusion} |" in row
    assert "reference" in next(row for name, row in rows.items() if name.startswith("gkd #"))


def test_what_is_said_of_the_search_is_right_with_a_verdict(record: StudyRecord, page: str) -> None:
    assert CONFIRMED_NOTE in page and UNCONFIRMED_NOTE not in page
    assert "Nothing was confirmed" not in page
    assert any(CONFIRMED_NOTE in note for note in study_json(ReportData.of(record))["notes"])


def test_without_a_verdict_the_page_says_how_to_get_one(tmp_path: Path) -> None:
    page = write_report(ReportData.of(example_study()), tmp_path)[0].read_text(encoding="utf-8")
    lines = page.split("\n\n")
    assert lines[1].startswith("**gkd has the best score on the selection suite")
    assert lines[2].startswith("> Nothing was confirmed")
    assert "Give the study a test suite as `evaluation.test` and run it again" in lines[2]
    assert "verdict.png" not in page
    assert "Nothing was confirmed" in terminal(example_study(), 400)


@pytest.mark.parametrize("width", [60, 80, 100, 120, 160])
def test_every_width_shows_each_arm_and_each_difference(
    record: StudyRecord, verdict: Verdict, width: int
) -> None:
    text = terminal(record, width)
    assert max(map(len, text.splitlines())) <= width
    for arm in verdict.at("steps"):
        assert f"{arm.test.mean:.3f} [{arm.test.low:.3f}, {arm.test.high:.3f}]" in text
        assert f"{arm.inflation:+.3f}" in text or width == 60
    for pair in verdict.pairs:
        low, high = pair.interval
        assert f"{pair.difference:+.3f} [{low:+.3f}, {high:+.3f}]" in text
    assert text.index("The winners on the test suite") < text.index("The search")
    assert text.rstrip().splitlines()[-1].split()[0] == "revision"


def test_a_wide_terminal_has_one_table(record: StudyRecord) -> None:
    wide, narrow = terminal(record, 120), terminal(record, 80)
    assert "gkd − arm" in wide and "gkd − sft" not in wide
    assert "gkd − sft" in narrow


def test_the_plot_shows_margin_intervals_and_conclusions(
    record: StudyRecord, verdict: Verdict
) -> None:
    figure = verdict_plot(verdict, compare(record))
    assert figure is not None
    texts = {text.get_text() for text in figure.findobj(Label)}
    assert {"teacher", "start", "±0.03", "gkd\n− sft"} <= texts
    assert {pair.conclusion for pair in verdict.pairs} <= texts
    right = figure.axes[1]
    pair = verdict.pairs[0]
    drawn = [tuple(map(float, line.get_xdata())) for line in right.lines]
    assert tuple(pair.interval) in drawn
    assert any(patch.get_x() == -0.03 for patch in right.patches)


def declared(record: StudyRecord, *pairs: tuple[str, str]) -> StudyRecord:
    """Return a study whose file declares its primary comparisons."""
    assert record.test is not None and record.test.scores is not None
    scores = record.test.scores.model_copy(update={"compare": pairs})
    return record.model_copy(update={"test": record.test.model_copy(update={"scores": scores})})


def test_declared_comparisons_are_in_every_form(record: StudyRecord, tmp_path: Path) -> None:
    study = declared(record, ("supervised_kd", "gkd"), ("gkd", "start"))
    data = ReportData.of(study)
    page = write_report(data, tmp_path)[0].read_text(encoding="utf-8").replace("\u00a0", " ")
    found = study_json(data)
    assert [(pair["arm"], pair["against"], pair["at"]) for pair in found["verdicts"]] == [
        ("supervised_kd", "gkd", "steps"),
        ("gkd", "start", "steps"),
        ("supervised_kd", "gkd", "device_seconds"),
    ]
    for text in (page, terminal(study, 80)):
        assert "supervised_kd − gkd" in text and "gkd − start" in text
        assert "The study file declares the comparisons" in " ".join(text.split())
    figure = verdict_plot(data.verdict, data.comparison) if data.verdict else None
    assert figure is not None
    labels = {text.get_text() for text in figure.findobj(Label)}
    assert {"supervised_kd\n− gkd", "gkd\n− start"} <= labels
    assert recommend(study, data.comparison, data.verdict) is not None


def test_the_start_has_its_difference_in_a_table_with_a_reference(record: StudyRecord) -> None:
    wide = terminal(declared(record, ("gkd", "sft"), ("gkd", "start")), 160)
    [start] = [line for line in wide.splitlines() if line.split()[:1] == ["start"]][:1]
    assert "better" in start
    [teacher] = [line for line in wide.splitlines() if line.split()[:1] == ["teacher"]][:1]
    assert not {"better", "worse", "inconclusive"} & set(teacher.split())


def test_what_the_study_taught_is_in_every_form(record: StudyRecord, page: str) -> None:
    lessons = ("## What each setting does", "## Settings to use")
    places = [page.index(text) for text in ("## The search", *lessons, "## Details")]
    assert places == sorted(places)
    told = study_json(ReportData.of(record))
    assert {"importance", "effects", "exhausted_ranges", "recommended", "advice"} <= set(told)
    shown = terminal(record, 80)
    assert "What the search taught" in shown and "Settings to use" in shown
