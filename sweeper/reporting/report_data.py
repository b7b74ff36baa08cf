"""Everything that a report shows of a study, computed once."""

from __future__ import annotations

from dataclasses import dataclass

from sweeper.analysis.comparison import Comparison, compare
from sweeper.analysis.importance.lessons import SearchLessons, search_lessons
from sweeper.analysis.training_lessons import TrainingLessons, training_lessons
from sweeper.analysis.verdict import verdict_of
from sweeper.analysis.verdict_records import Verdict
from sweeper.records.archive import shareable
from sweeper.records.study_record import StudyRecord
from sweeper.reporting.text.headline import search_headline, verdict_headline


@dataclass(frozen=True)
class ReportData:
    """A study's record with all that is computed from it."""

    record: StudyRecord
    comparison: Comparison
    verdict: Verdict | None
    """None before the confirmation runs were scored on the test suite."""
    search: SearchLessons
    """What the search taught of its settings."""
    training: TrainingLessons
    """Lessons of the study on training."""

    @staticmethod
    def of(record: StudyRecord) -> ReportData:
        """Build the data of a report at any stage of the study, without its secrets."""
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
        """Sentences that lead the report."""
        return verdict_headline(self.verdict) if self.verdict else search_headline(self.comparison)
