"""What the data step sees of a study: from the study's own record, or by running it now."""

from __future__ import annotations

import tempfile
from pathlib import Path

from pydantic import ValidationError

from sweeper.cache import default_root
from sweeper.config.compute import ComputeConfig
from sweeper.config.loading import LoadedStudy
from sweeper.errors import SweeperError
from sweeper.execution.executor import read_outcome
from sweeper.execution.local import LocalExecutor
from sweeper.paths import JobPaths, StudyPaths
from sweeper.preparation import explain, is_done, make_origin, make_spec, submit
from sweeper.records import Examination, Outcome, PreparationSpec
from sweeper.snapshot import changes, command_line, open_snapshot, read_snapshot, suite_spec

_POLL_SECONDS = 0.25


def examine(study: LoadedStudy, paths: StudyPaths) -> Examination:
    """Look the study's data, tokenizers and suites over, unless it was done for the same inputs.

    Args:
        study: The checked study file.
        paths: Where the study is recorded; read only.

    Raises:
        SweeperError: The step could not be run.
    """
    outcome = _recorded(study, paths) or _run(study)
    return seen_in(outcome)


def seen_in(outcome: Outcome) -> Examination:
    """What a data step saw; of old records, what they hold."""
    if outcome.examination is not None:
        return outcome.examination
    data = outcome.data
    return Examination(
        data=data,
        selection_documents=data.selection_documents if data else None,
        test_documents=data.test_documents if data else None,
        overlap_free=data is not None,
    )


def _recorded(study: LoadedStudy, paths: StudyPaths) -> Outcome | None:
    snapshot = read_snapshot(paths)
    if snapshot is None or changes(snapshot, study):
        return None
    files = paths.preparation("data")
    try:
        before = PreparationSpec.model_validate_json(files.spec.read_bytes())
    except (OSError, ValidationError):
        return None
    # Where the cache lies is no part of what the step sees.
    origin = make_origin(study, snapshot, Path(before.origin.cache))
    spec = make_spec(study, origin, suite_spec(study.selection), "data", files)
    return read_outcome(files) if is_done(spec, paths) else None


def _run(study: LoadedStudy) -> Outcome:
    """On this machine's processor, leaving nothing behind but what the cache keeps of models."""
    cache = default_root()
    with tempfile.TemporaryDirectory(prefix="sweeper-check-") as directory:
        paths = StudyPaths(Path(directory), study.config.study)
        paths.directory.mkdir()
        with LocalExecutor(ComputeConfig(device="cpu")) as executor:
            _, threads = executor.next_place(paths.directory)
            snapshot = open_snapshot(study, paths, command_line(), threads)
            files = paths.preparation("data")
            origin = make_origin(study, snapshot, cache)
            spec = make_spec(study, origin, suite_spec(study.selection), "data", files)
            submit(spec, files, executor)
            while not (finished := executor.wait(_POLL_SECONDS)):
                pass
        return _told(study, finished[0].outcome, files)


def _told(study: LoadedStudy, outcome: Outcome | None, files: JobPaths) -> Outcome:
    if outcome is not None and (outcome.data is not None or outcome.examination is not None):
        return outcome
    error = explain(study, "data", outcome, files)
    if isinstance(error, SweeperError) and str(files.log) in str(error):
        # The log goes with its folder.
        raise SweeperError(str(error).splitlines()[0])
    raise error
