"""The steps before a study's trials: check the data, score the teacher and the student."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from sweeper.config.lengths import study_lengths
from sweeper.config.loading import LoadedStudy
from sweeper.execution.executor import Executor
from sweeper.foundation.cache import is_whole
from sweeper.foundation.errors import ConfigError, FullDiskError, Problem, SweeperError
from sweeper.foundation.files import write_text_atomically
from sweeper.foundation.secrets import redacted, redacted_json
from sweeper.records import Failure, Outcome, PreparationSpec, Resources, StudyInputs, SuiteSpec
from sweeper.records.layout import JobPaths, StudyPaths
from sweeper.records.outcome_files import read_outcome
from sweeper.study.extreme_settings import wanted
from sweeper.study.manifest import StudyManifest, data_files, suite_spec

Step = Literal["data", "teacher", "student", "test_teacher", "test_student"]
STEPS: tuple[tuple[Step, ...], ...] = (("data",), ("student", "teacher"))
"""The steps in their order; those of one group can run next to each other."""
TEST_STEPS: tuple[tuple[Step, ...], ...] = (("test_student", "test_teacher"),)
"""The steps after the search: only then is the test suite scored."""


def make_study_inputs(study: LoadedStudy, manifest: StudyManifest, cache: Path) -> StudyInputs:
    """Return what all jobs of the study share."""
    config = study.config
    return StudyInputs(
        study=config.study,
        seed=config.seed,
        teacher=config.teacher,
        student=config.student,
        warm_start=config.warm_start,
        data=config.data,
        data_files=data_files(study),
        references=config.uses_references(),
        teacher_outputs=config.teacher_outputs,
        # Not how often trials are saved, which changes nothing that they share.
        training=config.training.model_copy(update={"checkpoint_every": None}),
        evaluation=config.evaluation,
        cache=str(cache.resolve()),
        teacher_states_gib=config.compute.teacher_states_gib,
        cache_threads=manifest.cache_threads,
    )


def with_results(inputs: StudyInputs, steps: Sequence[Step], paths: StudyPaths) -> StudyInputs:
    """Return ``inputs`` with the results of ``steps``, which are done, for later jobs."""
    results: dict[str, str | None] = {}
    for step in steps:
        outcome = read_outcome(paths.preparation(step))
        if outcome and outcome.data:
            results["data_fingerprint"] = outcome.data.fingerprint
        if outcome and outcome.held_out:
            results["held_out"] = outcome.held_out
    return inputs.model_copy(update=results)


def make_spec(
    study: LoadedStudy, inputs: StudyInputs, suite: SuiteSpec, step: Step, paths: JobPaths
) -> PreparationSpec:
    """Return the spec of one step; ``submit`` fills in where it runs."""
    arms = study.config.arms
    if study.test is not None and step in TEST_STEPS[0]:
        suite = suite_spec(study.test)
    return PreparationSpec(
        step=step,
        origin=inputs,
        needs_teacher_outputs=study.config.needs_teacher_outputs(),
        stock_engine=study.config.uses_stock_engine(),
        reads=tuple(sorted(study.config.teacher_reads())) if step == "teacher" else (),
        extra_arguments={
            name: (arm.method, _extra_names(study, name)) for name, arm in arms.items()
        },
        shapes=wanted(study.config) if step == "data" else (),
        own_teachers=_own_teachers(study) if step == "data" else {},
        lengths=study_lengths(study.config) if step == "data" else (),
        suite=suite,
        test_suite=suite_spec(study.test) if study.test and step == "data" else None,
        place=Resources(directory=str(paths.directory), device="cpu", threads=1),
    )


def is_done(spec: PreparationSpec, paths: StudyPaths) -> bool:
    """Return whether the step was completed for the same inputs."""
    files = paths.preparation(spec.step)
    outcome = read_outcome(files)
    if outcome is None or outcome.state != "completed":
        return False
    try:
        text = files.spec.read_text(encoding="utf-8")
        before = redacted(json.loads(text))
        # With the defaults of keys that an older version lacked.
        origin = PreparationSpec.model_validate_json(text).origin.model_dump(mode="json")
        before["origin"] = redacted(origin)
    except (OSError, ValueError):
        return False
    now = redacted(spec.model_dump(mode="json"))
    same = ("origin", "suite", "test_suite", "needs_teacher_outputs", "reads", "extra_arguments")
    # Specs of older studies lack these keys.
    later = {"own_teachers": {}, "shapes": now["shapes"], "lengths": now["lengths"]}
    return all(before.get(key, later.get(key)) == now[key] for key in (*same, *later))


def is_cached(step: Step, paths: StudyPaths) -> bool:
    """Return whether everything that a step left in the cache for trials is still there."""
    outcome = read_outcome(paths.preparation(step))
    return outcome is not None and all(is_whole(Path(entry)) for entry in outcome.cached)


def submit(spec: PreparationSpec, executor: Executor) -> None:
    """Start a step in a clean directory."""
    files = JobPaths(Path(spec.place.directory))
    for path in (files.outcome, files.progress, files.log, files.documents, files.samples):
        path.unlink(missing_ok=True)
    place = executor.next_resources(files.directory).alone()
    placed = spec.model_copy(update={"place": place})
    write_text_atomically(files.spec, redacted_json(placed))
    executor.submit(placed)


def explain(study: LoadedStudy, step: str, outcome: Outcome | None, files: JobPaths) -> Exception:
    """Return the error to stop the study with after a step failed.

    Bad input is the user's to fix: the error names its place in the study file. Any other error
    names the log.
    """
    failure = outcome.failure if outcome else None
    if outcome is not None and outcome.examination and outcome.examination.problems:
        return ConfigError([problem_of(study, problem) for problem in outcome.examination.problems])
    if failure is not None and failure.kind in ("bad_input", "full_disk"):
        return stopped_by(study, failure)
    reason = failure.message if failure else "its process ended without an outcome"
    return SweeperError(f"The preparation ({step}) failed: {reason}\nThe log is {files.log}.")


def stopped_by(study: LoadedStudy, failure: Failure) -> SweeperError:
    """Return the error for a failure that stops the study; bad input names its key's place."""
    if failure.kind == "full_disk":
        return FullDiskError(failure.message)
    return ConfigError([problem_of(study, failure)])


def problem_of(study: LoadedStudy, failure: Failure) -> Problem:
    """Return a problem with the input, at the place of its key in the study file."""
    if failure.key:
        return study.file.problem(failure.key, failure.message)
    return Problem(source=str(study.path), message=failure.message)


def _extra_names(study: LoadedStudy, arm: str) -> tuple[str, ...]:
    settings, search = study.config.arms[arm].settings, study.config.arms[arm].search
    names = {*study.config.training.extra, *settings.get("extra", {})}
    prefix = "extra."
    names |= {key.removeprefix(prefix) for key in (*settings, *search) if key.startswith(prefix)}
    return tuple(sorted(names))


def _own_teachers(study: LoadedStudy) -> dict[str, tuple[str, ...]]:
    models_of = {}
    for name, arm in study.config.arms.items():
        space = arm.search.get("teacher.model")
        choices = (space.grid() or []) if space is not None else [arm.settings.get("teacher.model")]
        if models := tuple(str(model) for model in choices if model is not None):
            models_of[name] = models
    return models_of
