"""The example reports of the repository are what their records give, and what README.md quotes.

``make quickstart``, ``make smollm2`` and ``sweeper run`` with ``studies/placebo.yaml`` and
``studies/teacher-signal.yaml`` make them; README.md quotes the first, in 80 columns.
"""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from rich.console import Console

from sweeper.records.archive import NAME, read_records
from sweeper.records.study_record import ConfirmedWinner, StudyRecord
from sweeper.reporting.json_output import study_json
from sweeper.reporting.markdown.report import write_report
from sweeper.reporting.report_data import ReportData
from sweeper.reporting.summary import show_study
from tests.support.tiny_studies import ROOT

EXAMPLES = sorted(path.parent for path in (ROOT / "reports" / "examples").glob(f"*/{NAME}"))
QUOTED = "quickstart"
README_WIDTH = 80
"""Columns of the terminal that README.md shows."""


class Example(NamedTuple):
    folder: Path
    record: StudyRecord


@pytest.fixture(scope="module", params=EXAMPLES, ids=lambda folder: folder.name)
def example(request: pytest.FixtureRequest) -> Example:
    return Example(request.param, read_records(request.param / NAME))


def terminal(record: StudyRecord) -> str:
    file = io.StringIO()
    show_study(ReportData.of(record), Console(file=file, width=README_WIDTH))
    return file.getvalue()


def test_the_report_is_what_its_records_give(example: Example, tmp_path: Path) -> None:
    write_report(ReportData.of(example.record), tmp_path)
    for name in ("report.md", NAME):
        assert (tmp_path / name).read_bytes() == (example.folder / name).read_bytes(), name


def test_the_readme_quotes_lines_that_the_command_prints() -> None:
    record = read_records(ROOT / "reports" / "examples" / QUOTED / NAME)
    printed = terminal(record).splitlines()
    sentence = study_json(ReportData.of(record))["verdict"]
    start = " ".join(sentence.split()[:4])
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"(?ms)^```\n(.*?)^```$", readme)
    [block] = [block for block in blocks if block.startswith(start)]
    quoted = [line for line in block.splitlines() if line.strip() and line.strip() != "…"]
    of_the_run = ("Report: ", "Every trial in the MLflow UI: ")
    for line in quoted:
        assert line.rstrip() in printed or line.startswith(of_the_run), line


def test_the_headline_numbers_are_those_of_the_documents(example: Example) -> None:
    """From the scores by document, with nothing but sums."""
    assert example.record.test is not None and example.record.test.scores is not None
    scores = example.record.test.scores
    weights = np.array(scores.shares) / np.sum(scores.shares)

    def mean(arm: ConfirmedWinner, seeds: set[int]) -> float:
        rows = [row for row, seed in zip(arm.scores, arm.seeds, strict=True) if seed in seeds]
        return float(np.mean([np.dot(row, weights) for row in rows]))

    told = study_json(ReportData.of(example.record))
    page = (example.folder / "report.md").read_text(encoding="utf-8").replace("\u00a0", " ")
    own = {arm.arm: arm for arm in scores.arms if arm.at == "steps"}
    for name, arm in own.items():
        expected = mean(arm, set(arm.seeds))
        assert told["arms"][name]["test"]["mean"] == pytest.approx(expected)
        assert f"{name} #{arm.trial}" in page and f"| {expected:.3f} \\[" in page
    ends = {"teacher": scores.teacher or (), "start": scores.starting_student or ()}
    assert told["verdicts"]
    for pair in told["verdicts"]:
        arms = own | {arm.arm: arm for arm in scores.arms if arm.at == pair["at"]}
        names = (pair["arm"], pair["against"])
        common = set.intersection(*(set(arms[name].seeds) for name in names if name in arms))
        ours, theirs = (
            mean(arms[name], common) if name in arms else float(np.dot(ends[name], weights))
            for name in names
        )
        expected = ours - theirs
        assert pair["difference"] == pytest.approx(expected)
        assert f"| {pair['difference']:+.3f} \\[" in page  # a tie rounds as it is told
