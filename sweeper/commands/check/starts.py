"""Findings on what the searches start with."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from sweeper.analysis.findings import Finding
from sweeper.config.arms import ArmConfig
from sweeper.config.study import StudyConfig
from sweeper.records import EnqueuedSettings
from sweeper.reporting.text.formatting import listed
from sweeper.search.sampling import left_open
from sweeper.study.start_settings import StartSettings

_WHAT = "start"
_ADVICE = "Read it as settings that did well elsewhere; they are scored again here."


def start_findings(config: StudyConfig, starts: StartSettings, suite: str) -> Iterator[Finding]:
    """Report what each search starts with, and what only some of the arms start with.

    ``suite`` is the hash of the study's selection suite.
    """
    for name, given in starts.items():
        detail = f"{name}: {_source(given)}{_sampled(config.arms[name], given)}"
        yield Finding(state="ok", what=_WHAT, detail=detail)
        engine = config.evaluation.engine
        elsewhere = [start for start in given if start.suite_hash not in (None, suite)]
        if engines := {start.study: start.engine for start in elsewhere if start.engine != engine}:
            detail = f"{name}: best is by scores of {listed([*engines.values()])}"
            detail += f" in {listed([*map(str, engines)])}; here {engine} computes them"
            yield Finding(state="warning", what=_WHAT, detail=detail, advice=_ADVICE)
        if others := dict.fromkeys(str(s.study) for s in elsewhere if s.engine == engine):
            detail = f"{name}: best is by the selection suite of {listed(list(others))}, which is"
            detail += " another suite"
            yield Finding(state="warning", what=_WHAT, detail=detail, advice=_ADVICE)
    without = [name for name, arm in config.arms.items() if arm.search and name not in starts]
    if starts and without:
        detail = f"given settings in {listed(list(starts))}, none in {listed(without)}"
        advice = "Write start_with in every arm that searches, for example the learning rate."
        yield Finding(state="warning", what=_WHAT, detail=detail, advice=advice)


def _source(given: Sequence[EnqueuedSettings]) -> str:
    sources = [start.source() for start in given if start.study]
    written = len(given) - len(sources)
    parts = [f"{written} of the study file"] if written else []
    return f"trials with given settings: {', '.join([*parts, *sources])}"


def _sampled(arm: ArmConfig, given: Sequence[EnqueuedSettings]) -> str:
    names = dict.fromkeys(name for start in given for name in left_open(arm, start.settings))
    return f"; sampled where not given: {', '.join(names)}" if names else ""
