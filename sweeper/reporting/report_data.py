"""What a report is made from: the record, and everything that is computed of it, once."""

from __future__ import annotations

from dataclasses import dataclass

from sweeper.analysis.comparison import Comparison, compare
from sweeper.analysis.importance.lessons import SearchLessons, search_lessons
from sweeper.analysis.training_lessons import TrainingLessons, training_lessons
from sweeper.analysis.verdict import Verdict, verdict_of
from sweeper.records.archive import shareable
from sweeper.records.study_record import StudyRecord
from sweeper.reporting.text import verdict, wording


@dataclass(frozen=True)
class ReportData:
    """A study with what its report says."""

    record: StudyRecord
    comparison: Comparison
    verdict: Verdict | None
    """None before winners were scored on the test suite."""
    search: SearchLessons
    """What the search taught of its settings."""
    training: TrainingLessons
    """Lessons of the study on training."""

    @staticmethod
    def of(record: StudyRecord) -> ReportData:
        """The page of a study at any stage, without its secrets."""
        record = shareable(record)
        comparison = compare(record)
        verdict = verdict_of(record, comparison.best_gkd)
        return ReportData(
            record=record,
            comparison=comparison,
            verdict=verdict,
            search=search_lessons(record),
            training=training_lessons(record, comparison, verdict),
        )

    @property
    def headline(self) -> str:
        """The verdict, or what the search found."""
        if self.verdict is not None:
            return verdict.headline(self.verdict)
        return wording.headline(self.comparison)
