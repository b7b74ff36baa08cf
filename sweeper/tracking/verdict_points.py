"""The verdict as metrics of a study's run; apart from ``mapping``, as statistics import slowly."""

from __future__ import annotations

from sweeper.analysis.comparison import compare
from sweeper.analysis.verdict import verdict_of
from sweeper.records.study_record import StudyRecord
from sweeper.tracking.mapping import valid_key
from sweeper.tracking.points import MetricPoint


def verdict_points(record: StudyRecord) -> list[MetricPoint]:
    """Return each comparison, at the time the last winner was scored; none without a verdict.

    ``verdict/<measure of cost>/<arm>/<other arm>/difference``, ``…/p_adjusted``, and the ends of
    the 95 % interval as ``…/low`` and ``…/high``.
    """
    verdict = verdict_of(record, compare(record).best_gkd)
    runs = [run.outcome for arm in record.arms for run in arm.finals if run.outcome]
    if verdict is None or not runs:
        return []
    when = round(1000 * max(outcome.finished for outcome in runs))
    points = []
    for pair in verdict.pairs:
        low, high = pair.interval
        values = {
            "difference": pair.difference,
            "p_adjusted": pair.p_adjusted,
            "low": low,
            "high": high,
        }
        place = f"verdict/{pair.at}/{pair.arm}/{pair.against}"
        points += [
            MetricPoint(valid_key(f"{place}/{key}"), v, 0, when) for key, v in values.items()
        ]
    return points
