"""What a study's run is told of its verdict.

Apart from ``mapping``, because the statistics take their time to import.
"""

from __future__ import annotations

from sweeper.analysis.comparison import compare
from sweeper.analysis.verdict import verdict_of
from sweeper.records.study_record import StudyRecord
from sweeper.tracking.mapping import MetricPoint, valid_key


def verdict_points(record: StudyRecord) -> list[MetricPoint]:
    """Each comparison, at the time the last winner was scored; none without a verdict.

    ``verdict/<measure of cost>/<arm>/<other arm>/difference``, ``…/p_adjusted``, and the ends of
    the 95 % interval as ``…/low`` and ``…/high``.
    """
    verdict = verdict_of(record, compare(record).best_gkd)
    finals = [final.outcome for arm in record.arms for final in arm.finals if final.outcome]
    if verdict is None or not finals:
        return []
    when = round(1000 * max(outcome.finished for outcome in finals))
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
