"""A study's comparison and its verdict as plain JSON values, for scripts."""

from __future__ import annotations

from typing import Any

from sweeper.analysis.by_task import by_task
from sweeper.analysis.comparison import as_json as comparison_json
from sweeper.analysis.verdict_records import Verdict
from sweeper.reporting.markdown.importance import search_json
from sweeper.reporting.markdown.pair import pair_json
from sweeper.reporting.markdown.training import training_json
from sweeper.reporting.report_data import ReportData
from sweeper.reporting.text.verdict import notes, sentence


def study_json(page: ReportData) -> dict[str, Any]:
    """Return what ``sweeper report --json`` prints; docs/verdict.md describes its keys."""
    plain = {
        **comparison_json(page.comparison),
        **search_json(page.search),
        **training_json(page.training),
        **pair_json(page),
        "servers": [
            {**server.model_dump(mode="json"), "device_seconds": server.device_seconds}
            for server in page.record.servers
        ],
        "device_faults": [fault.model_dump(mode="json") for fault in page.record.device_faults],
    }
    if (verdict := page.verdict) is None:
        return plain
    tests = _tests(verdict)
    return {
        **plain,
        "verdict": page.headline,
        "verdicts": [
            {**pair.model_dump(mode="json"), "sentence": sentence(pair, verdict.margin)}
            for pair in verdict.pairs
        ],
        "verdict_notes": notes(verdict),
        "tasks": [result.model_dump(mode="json") for result in by_task(page.record)],
        "arms": {
            name: {**arm, **({"test": tests[name]} if name in tests else {})}
            for name, arm in plain["arms"].items()
        },
    }


def _tests(verdict: Verdict) -> dict[str, dict[str, Any]]:
    """Return the winner of each arm on the test suite, at the steps of the search."""
    tests = {}
    for arm in verdict.at("steps"):
        plain = arm.model_dump(mode="json", exclude={"arm", "method"})
        test = plain.pop("test")
        interval = [test.pop("low"), test.pop("high")]
        tests[arm.arm] = {**test, "interval": interval, **plain}
    return tests
