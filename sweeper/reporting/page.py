"""What a report is made from: the record, and everything that is computed of it, once."""

from __future__ import annotations

from dataclasses import dataclass

from sweeper.analysis.comparison import Comparison, compare
from sweeper.analysis.lessons import SearchLessons, search_lessons
from sweeper.analysis.verdict import Verdict, verdict_of
from sweeper.records_file import shareable
from sweeper.reporting import verdict_wording, wording
from sweeper.reporting.practice_lessons import PracticeLessons, practice_lessons
from sweeper.study_record import StudyRecord


@dataclass(frozen=True)
class Page:
    """A study with what its report says."""

    record: StudyRecord
    comparison: Comparison
    verdict: Verdict | None
    """None before winners were scored on the test suite."""
    search: SearchLessons
    """What the search taught of its settings."""
    practice: PracticeLessons
    """What the study taught of training well."""

    @staticmethod
    def of(record: StudyRecord) -> Page:
        """The page of a study at any stage, without its secrets."""
        record = shareable(record)
        comparison = compare(record)
        verdict = verdict_of(record, comparison.best_gkd)
        return Page(
            record=record,
            comparison=comparison,
            verdict=verdict,
            search=search_lessons(record),
            practice=practice_lessons(record, comparison, verdict),
        )

    @property
    def headline(self) -> str:
        """The verdict, or what the search found."""
        if self.verdict is not None:
            return verdict_wording.headline(self.verdict)
        return wording.headline(self.comparison)
