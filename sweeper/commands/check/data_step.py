"""What the data step sees of a study: from the study's own record, or by running it now."""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError

from sweeper.config.compute import ComputeConfig
from sweeper.config.loading import LoadedStudy
from sweeper.execution.local import LocalExecutor
from sweeper.foundation.errors import SweeperError
from sweeper.foundation.scratch import scratch
from sweeper.records import DataCheck, Outcome, PreparationSpec
from sweeper.records.layout import StudyPaths
from sweeper.records.outcome_files import read_outcome
from sweeper.study.manifest import StudyManifest, command_line, open_manifest, suite_spec
from sweeper.study.preparation import explain, is_done, make_spec, make_study_inputs, submit

_POLL_SECONDS = 0.25


def seen_in(outcome: Outcome) -> DataCheck:
    """What a data step saw; of old records, what they hold."""
    if outcome.examination is not None:
        return outcome.examination
    data = outcome.data
    return DataCheck(
        data=data,
        selection_documents=data.selection_documents if data else None,
        test_documents=data.test_documents if data else None,
        overlap_free=data is not None,
    )


def recorded_data_check(
    study: LoadedStudy, paths: StudyPaths, snapshot: StudyManifest
) -> DataCheck | None:
    """What the data step of the study saw when it ran; None if it did not, or had other inputs.

    Args:
        study: The checked study file, which has not changed since.
        paths: Where the study is recorded; read only.
        snapshot: Its start.
    """
    files = paths.preparation("data")
    try:
        before = PreparationSpec.model_validate_json(files.spec.read_bytes())
    except (OSError, ValidationError):
        return None
    # Where the cache lies is no part of what the step sees.
    origin = make_study_inputs(study, snapshot, Path(before.origin.cache))
    spec = make_spec(study, origin, suite_spec(study.selection), "data", files)
    outcome = read_outcome(files)
    return seen_in(outcome) if outcome is not None and is_done(spec, paths) else None


def run_data_step(study: LoadedStudy, device: str, cache: Path) -> DataCheck:
    """Look data, tokenizers and suites over; nothing is left behind but what the cache keeps.

    Args:
        study: The checked study file.
        device: What trials would run on: it decides the type of weights.
        cache: The content-addressed cache.

    Raises:
        SweeperError: The step could not be run.
    """
    with scratch("sweeper-check-") as directory:
        paths = StudyPaths(directory, study.config.study)
        paths.directory.mkdir()
        with LocalExecutor(ComputeConfig(), [device]) as executor:
            threads = executor.next_resources(paths.directory).threads
            snapshot = open_manifest(study, paths, command_line(), threads)
            files = paths.preparation("data")
            origin = make_study_inputs(study, snapshot, cache)
            spec = make_spec(study, origin, suite_spec(study.selection), "data", files)
            submit(spec, files, executor)
            while not (finished := executor.wait(_POLL_SECONDS)):
                pass
    outcome = finished[0].outcome
    if outcome is not None and outcome.examination is not None:
        return outcome.examination
    # Its log is gone with its folder.
    raise SweeperError(str(explain(study, "data", outcome, files)).splitlines()[0])
