"""Result of a study's data step: from the study's own record, or by running the step now."""

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


def data_check_of(outcome: Outcome) -> DataCheck:
    """Return the result of a data step; of old records, what they hold."""
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
    study: LoadedStudy, paths: StudyPaths, manifest: StudyManifest
) -> DataCheck | None:
    """Return the result of the study's data step; None if it has not run with the same inputs."""
    files = paths.preparation("data")
    try:
        before = PreparationSpec.model_validate_json(files.spec.read_bytes())
    except (OSError, ValidationError):
        return None
    # The step's result does not depend on where the cache lies.
    inputs = make_study_inputs(study, manifest, Path(before.origin.cache))
    spec = make_spec(study, inputs, suite_spec(study.selection), "data", files)
    outcome = read_outcome(files)
    return data_check_of(outcome) if outcome is not None and is_done(spec, paths) else None


def run_data_step(study: LoadedStudy, device: str, cache: Path) -> DataCheck:
    """Check data, tokenizers and suites; leave nothing behind but what the cache keeps.

    The type of weights depends on ``device``, the trials' own.

    Raises:
        SweeperError: The step could not be run.
    """
    with scratch("sweeper-check-") as directory:
        paths = StudyPaths(directory, study.config.study)
        paths.directory.mkdir()
        with LocalExecutor(ComputeConfig(), [device]) as executor:
            threads = executor.next_resources(paths.directory).threads
            manifest = open_manifest(study, paths, command_line(), threads)
            files = paths.preparation("data")
            inputs = make_study_inputs(study, manifest, cache)
            spec = make_spec(study, inputs, suite_spec(study.selection), "data", files)
            elsewhere = study.config.compute.executor != "local"
            spec = spec.model_copy(update={"elsewhere": elsewhere})
            submit(spec, executor, executor.next_resources)
            while not (finished := executor.wait(_POLL_SECONDS)):
                pass
    outcome = finished[0].outcome
    if outcome is not None and outcome.examination is not None:
        return outcome.examination
    # Its log is gone with its folder.
    raise SweeperError(str(explain(study, "data", outcome, files)).splitlines()[0])
