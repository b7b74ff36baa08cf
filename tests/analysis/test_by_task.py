"""Winners task by task: means over seeds, and the share of each task's own gap."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from sweeper.analysis.by_task import by_task
from sweeper.records import Outcome, Scores, TaskScore
from sweeper.records.study_record import StudyRecord
from sweeper.reporting.json_output import study_json
from sweeper.reporting.markdown.report import write_report
from sweeper.reporting.report_data import ReportData
from sweeper.reporting.summary import show_study
from tests.support.confirmed_study import confirmed_study
from tests.support.example_study import completed


def two_tasks(accuracy: float, nats: float) -> Scores:
    def task(name: str, metric: str, value: float, higher: bool, weight: float) -> TaskScore:
        return TaskScore(
            task=name,
            metric=metric,
            score=value,
            stderr=0.01,
            documents=60,
            higher_is_better=higher,
            weight=weight,
        )

    tasks = (
        task("questions", "exact_match", accuracy, True, 2.0),
        task("texts", "nats_per_byte", nats, False, 0.0),
    )
    base = completed(accuracy).scores
    assert base is not None
    return base.model_copy(update={"tasks": tasks})


def with_tasks(record: StudyRecord) -> StudyRecord:
    """Its winners at 0.5 and 0.7 by seed, on the way from 0.2 to 1.0."""

    def outcome(scores: Scores, *, final: bool) -> Outcome:
        known = completed(0.9)
        return known.model_copy(update={"test_scores" if final else "scores": scores})

    assert record.test is not None and record.test.scores is not None
    winners = {arm.arm: arm.trial for arm in record.test.scores.arms}
    arms = []
    for arm in record.arms:
        finals = []
        for final in arm.finals[:2]:
            scores = two_tasks((0.5, 0.7)[final.number], (1.3, 1.2)[final.number])
            trial = final.final.model_copy(update={"trial": winners[arm.name]})
            finals.append(
                final.model_copy(update={"final": trial, "outcome": outcome(scores, final=True)})
            )
        other = finals[0].final.model_copy(update={"at": "device_seconds"})
        finals.append(
            finals[0].model_copy(
                update={"final": other, "outcome": outcome(two_tasks(0.0, 9.0), final=True)}
            )
        )
        arms.append(arm.model_copy(update={"finals": tuple(finals)}))
    test = record.test.model_copy(
        update={
            "teacher": outcome(two_tasks(1.0, 1.0), final=False),
            "starting_student": outcome(two_tasks(0.2, 1.5), final=False),
        }
    )
    return record.model_copy(update={"arms": tuple(arms), "test": test})


@pytest.fixture(scope="module")
def record() -> StudyRecord:
    return with_tasks(confirmed_study())


def test_means_over_seeds_and_shares_of_each_gap(record: StudyRecord) -> None:
    questions, texts = by_task(record)
    assert (questions.teacher, questions.starting_student) == (1.0, 0.2)
    assert {arm.arm for arm in questions.arms} == {arm.name for arm in record.arms}
    for arm in questions.arms:
        assert arm.mean == pytest.approx(0.6)
        assert arm.gap_closed == pytest.approx(0.5)
    for arm in texts.arms:
        # Lower is better, and the share is one of the way all the same.
        assert arm.mean == pytest.approx(1.25)
        assert arm.gap_closed == pytest.approx(0.5)


def test_a_suite_of_one_task_has_no_table() -> None:
    record = confirmed_study()
    assert by_task(record) == ()
    assert study_json(ReportData.of(record))["tasks"] == []


@pytest.mark.parametrize("width", [80, 120])
def test_terminal_report_and_json_say_it(
    record: StudyRecord, width: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    page = ReportData.of(record)
    console = Console(width=width, file=io.StringIO())
    show_study(page, console)
    assert isinstance(console.file, io.StringIO)
    shown = console.file.getvalue()
    assert "The test suite task by task" in shown
    assert "0.600 (50 %)" in shown and "1.250 (50 %)" in shown
    text = write_report(page, tmp_path_factory.mktemp("report"))[0].read_text(encoding="utf-8")
    assert "### The test suite task by task" in text
    assert "| *start* | 0.200 | 1.500 |" in text
    assert "texts: nats_per_byte, lower is better, 60 documents, no part of the score." in (
        text.replace("\\_", "_")
    )
    assert [task["weight"] for task in study_json(page)["tasks"]] == [2.0, 0.0]
