"""Checks with which ``sweeper run`` begins: once for each study as it is written."""

from __future__ import annotations

from sweeper.analysis.findings import Preflight
from sweeper.commands.check.data_step import data_check_of
from sweeper.commands.check.run_checks import judge
from sweeper.config.loading import LoadedStudy
from sweeper.foundation.cache import content_key
from sweeper.foundation.errors import PreflightError
from sweeper.foundation.files import write_text_atomically
from sweeper.records import Outcome, Record
from sweeper.records.layout import StudyPaths
from sweeper.reporting.live import LiveDisplay
from sweeper.reporting.tables.check import preflight_view, sentence
from sweeper.study.manifest import StudyManifest


class _Passed(Record):
    """``preflight.json``: the checks that a study passed."""

    study: str
    """Hash of the study and of the files that it names."""
    preflight: Preflight


def pass_preflight(
    study: LoadedStudy,
    paths: StudyPaths,
    manifest: StudyManifest,
    outcome: Outcome,
    display: LiveDisplay,
) -> None:
    """Check a study that begins, and refuse one that cannot work.

    A study that resumes with nothing changed has passed; ``outcome`` is that of its data step.

    Raises:
        PreflightError: The study cannot work.
    """
    identity = content_key(manifest.model_dump(mode="json", include={"config", "files"}))
    if _passed(paths) == identity:
        return
    # The teacher is scored later, and the study reports its gap then.
    preflight = judge(study, data_check_of(outcome), starts=manifest.start_with)
    display.show(preflight_view(preflight))
    if preflight.errors:
        lines = (f"{error.place or error.what}: {sentence(error)}" for error in preflight.errors)
        raise PreflightError("\n".join(lines))
    passed = _Passed(study=identity, preflight=preflight)
    write_text_atomically(paths.preflight, passed.model_dump_json(indent=1) + "\n")


def _passed(paths: StudyPaths) -> str | None:
    try:
        return _Passed.model_validate_json(paths.preflight.read_bytes()).study
    except (OSError, ValueError):
        return None
