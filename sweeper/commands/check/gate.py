"""What ``sweeper run`` begins with: the preflight, once for each study as it is written."""

from __future__ import annotations

from collections.abc import Callable

from sweeper.analysis.findings import Preflight
from sweeper.commands.check.data_step import seen_in
from sweeper.commands.check.run_checks import judge
from sweeper.config.loading import LoadedStudy
from sweeper.foundation.cache import content_key
from sweeper.foundation.errors import PreflightError
from sweeper.foundation.files import write_text_atomically
from sweeper.records import Outcome, Record
from sweeper.records.layout import StudyPaths
from sweeper.reporting.tables.check import sentence
from sweeper.study.manifest import StudyManifest


class _Passed(Record):
    """``preflight.json``: what a study passed."""

    study: str
    """A hash of the study and of the files that it names, as they were."""
    preflight: Preflight


def pass_preflight(
    study: LoadedStudy,
    paths: StudyPaths,
    snapshot: StudyManifest,
    outcome: Outcome,
    tell: Callable[[Preflight], None],
) -> None:
    """Say what is known of a study that begins, and refuse one that cannot work.

    A study that goes on, with nothing changed, has passed.

    Args:
        study: The checked study file.
        paths: Where the study is recorded.
        snapshot: Its start.
        outcome: Of its data step.
        tell: Shows what was found.

    Raises:
        PreflightError: It cannot work.
    """
    identity = content_key(snapshot.model_dump(mode="json", include={"config", "files"}))
    if _passed(paths) == identity:
        return
    # Whether the teacher leads, the study says once it has scored it.
    found = judge(study, seen_in(outcome))
    tell(found)
    if found.errors:
        raise PreflightError(
            "\n".join(f"{error.place or error.what}: {sentence(error)}" for error in found.errors)
        )
    passed = _Passed(study=identity, preflight=found)
    write_text_atomically(paths.preflight, passed.model_dump_json(indent=1) + "\n")


def _passed(paths: StudyPaths) -> str | None:
    try:
        return _Passed.model_validate_json(paths.preflight.read_bytes()).study
    except (OSError, ValueError):
        return None
