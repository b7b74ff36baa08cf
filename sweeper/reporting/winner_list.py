"""The list of a study's winners that are trained again, in the terminal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from sweeper.analysis.comparison import selection_score
from sweeper.reporting import formatting, wording
from sweeper.reporting.console import plain_table
from sweeper.study_record import StudyRecord


def winner_table(record: StudyRecord, digits: int) -> Table:
    """One line a training, with its score on the selection suite: the test suite's is the report's.

    Args:
        record: The study.
        digits: Of a score, after the point.
    """
    table = plain_table()
    for name in ("trial", "new seed", "at equal", "state", "score", "seconds"):
        right = name in ("new seed", "score", "seconds")
        table.add_column(name, justify="right" if right else "left", no_wrap=True)
    for arm in record.arms:
        for found in arm.finals:
            outcome, final = found.outcome, found.final
            seconds = outcome.finished - outcome.started if outcome else None
            table.add_row(
                f"  {arm.name} #{final.trial}",
                str(final.seed + 1),
                final.at.replace("_", " "),
                found.state,
                formatting.score(selection_score(outcome), digits),
                formatting.NOTHING if seconds is None else formatting.seconds(max(seconds, 0.0)),
            )
    return table


def winner_counts(record: StudyRecord) -> str:
    """``3 of 6 trainings of winners completed``, or nothing before there are any."""
    states = Counter(final.state for arm in record.arms for final in arm.finals)
    if not states:
        return ""
    return f"{states['completed']} of {states.total()} trainings of winners completed"


def winner_failures(record: StudyRecord) -> Iterator[tuple[str, RenderableType]]:
    """Why some have no score."""
    for arm in record.arms:
        for found in arm.finals:
            if found.outcome is not None and found.outcome.failure is not None:
                name = f"{arm.name} #{found.final.trial} (new seed {found.final.seed + 1})"
                yield name, Text(wording.reason(found.outcome.failure))
