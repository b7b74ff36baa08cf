"""The steps before a study's trials: check the data, score the teacher and the student."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from sweeper.config.judgement import judged
from sweeper.config.lengths import arm_lengths, study_lengths
from sweeper.config.loading import LoadedStudy
from sweeper.config.own_teachers import named_attentions, named_models, own_teachers, teacher_uses
from sweeper.config.server import CHANGE_NO_ANSWER
from sweeper.config.study import StudyConfig
from sweeper.execution.executor import Executor
from sweeper.foundation.cache import is_whole
from sweeper.foundation.errors import ConfigError, FullDiskError, Problem, SweeperError
from sweeper.foundation.files import write_text_atomically
from sweeper.foundation.secrets import redacted, redacted_json
from sweeper.records import (
    Failure,
    Outcome,
    PreparationSpec,
    Resources,
    StudyInputs,
    SuiteSpec,
)
from sweeper.records.layout import JobPaths, StudyPaths, own_teacher_step
from sweeper.records.outcome_files import read_outcome
from sweeper.study import engines
from sweeper.study.engines import engine_request
from sweeper.study.extreme_settings import wanted
from sweeper.study.manifest import (
    StudyManifest,
    data_files,
    has_begun,
    input_hashes,
    model_folders,
    suite_spec,
    with_scoring_dtype,
)
from sweeper.study.pair import pair_request
from sweeper.study.preparation_order import ANSWERS, TEST_STEPS, Step
from sweeper.study.rehearsals import rehearsals


def make_study_inputs(study: LoadedStudy, manifest: StudyManifest, cache: Path) -> StudyInputs:
    """Return what all jobs of the study share."""
    config = with_scoring_dtype(study.config, manifest)
    return StudyInputs(
        study=config.study,
        seed=config.seed,
        teacher=config.teacher,
        student=config.student,
        warm_start=config.warm_start,
        data=config.data,
        data_files=data_files(study),
        model_folders=model_folders(study),
        references=config.uses_references(),
        teacher_outputs=config.teacher_outputs,
        # Not how often trials are saved, which changes nothing that they share.
        training=config.training.model_copy(update={"checkpoint_every": None}),
        rollout_engine="sweeper" if config.rollouts.engine == "auto" else config.rollouts.engine,
        evaluation=config.evaluation,
        collapse=config.collapse,
        cache=str(cache.resolve()),
        teacher_states_gib=config.compute.teacher_states_gib,
        cache_threads=manifest.cache_threads,
    )


def with_results(inputs: StudyInputs, steps: Sequence[Step], paths: StudyPaths) -> StudyInputs:
    """Return ``inputs`` with the results of ``steps``, which are done, for later jobs."""
    results: dict[str, str | int | None] = {}
    for step in steps:
        outcome = read_outcome(paths.preparation(step))
        if outcome and outcome.data:
            results["data_fingerprint"] = outcome.data.fingerprint
            results["training_rows"] = outcome.data.used
        if outcome and outcome.held_out:
            results["held_out"] = outcome.held_out
        if outcome and outcome.engines:
            results["rollout_engine"] = outcome.engines.chosen
    return inputs.model_copy(update=results)


def make_spec(
    study: LoadedStudy, inputs: StudyInputs, suite: SuiteSpec, step: Step, paths: JobPaths
) -> PreparationSpec:
    """Return the spec of one step; ``submit`` fills in where it runs."""
    config, arms = study.config, study.config.arms
    if study.test is not None and step in TEST_STEPS:
        suite = suite_spec(study.test)
    own = {own_teacher_step(name): values for name, values in own_teachers(config).items()}
    named = {name: tuple(models) for name, arm in arms.items() if (models := named_models(arm))}
    attentions = {name: tuple(a) for name, arm in arms.items() if (a := named_attentions(arm))}
    of_teacher = step in ("teacher", ANSWERS) or step in own
    uses = teacher_uses(config, own.get(step, {}))
    return PreparationSpec(
        step=step,
        origin=inputs,
        needs_teacher_outputs=uses.answers if of_teacher else config.needs_teacher_outputs(),
        stock_engine=config.uses_stock_engine(),
        reads=uses.reads if of_teacher else (),
        judged=judged(config) if step in ("data", "teacher") else None,
        own_teacher=own.get(step, {}),
        rehearsals=rehearsals(config) if step == "data" else (),
        shards=_shards(config) if step == "data" else (),
        optimisers=_optimisers(study) if step == "data" else {},
        shapes=wanted(config) if step == "data" else (),
        reference_users=config.reference_users() if step == "data" else (),
        own_attentions=attentions if step == "data" else {},
        own_teachers=named if step == "data" else {},
        own_lengths={name: arm_lengths(config, name) for name in named} if step == "data" else {},
        engines=engine_request(config) if step == engines.STEP else None,
        pair=pair_request(config, input_hashes(study)) if step == "pair" else None,
        lengths=study_lengths(config) if step == "data" else (),
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
    if outcome.engines is not None and has_begun(paths):
        return True  # A study has one engine, whatever is added to it later.
    try:
        text = files.spec.read_text(encoding="utf-8")
        before = json.loads(text)
    except (OSError, ValueError):
        return False
    written = set(before)
    # Specs of older studies lack keys, whose defaults are what was done.
    with suppress(ValidationError):  # where a hidden secret had to be something else
        before = PreparationSpec.model_validate_json(text).model_dump(mode="json")
    before, now = redacted(before), redacted(spec.model_dump(mode="json"))
    # These follow from steps; the manifest compares what is in the folders.
    for key in ("training_rows", "held_out", "rollout_engine", "model_folders"):
        before["origin"].pop(key, None)
        now["origin"].pop(key, None)
    for origin in (before["origin"], now["origin"]):
        for key in CHANGE_NO_ANSWER:
            (origin["teacher"].get("server") or {}).pop(key, None)
    same = ("origin", "suite", "test_suite", "needs_teacher_outputs", "reads", "own_teachers")
    later = [
        key
        for key in (
            "shapes",
            "lengths",
            "rehearsals",
            "shards",
            "optimisers",
            "own_teacher",
            "own_attentions",
            "engines",
            "judged",
        )
        if key in written
    ]
    return all(before[key] == now[key] for key in (*same, *later))


def is_needed(spec: PreparationSpec, paths: StudyPaths, *, trials_left: bool) -> bool:
    """Return whether the step has to be done, because it was not, or because its results are gone.

    Args:
        spec: The step; one that only makes another's results sooner is not where that one is done.
        paths: Files of the study.
        trials_left: True if trials will read what it left in the cache, which may have been
            emptied since.
    """
    if spec.step == ANSWERS:
        whole = spec.model_copy(update={"step": "teacher", "judged": None})
        return is_needed(whole, paths, trials_left=trials_left) and not is_done(spec, paths)
    return not is_done(spec, paths) or (trials_left and not is_cached(spec.step, paths))


def is_cached(step: Step, paths: StudyPaths) -> bool:
    """Return whether everything that a step left in the cache for trials is still there."""
    outcome = read_outcome(paths.preparation(step))
    if outcome is not None and outcome.engines is not None:
        return True  # Trials need its choice only.
    return outcome is not None and all(is_whole(Path(entry)) for entry in outcome.cached)


def submit(spec: PreparationSpec, executor: Executor, place: Callable[[Path], Resources]) -> None:
    """Start a step in a clean directory; ``place`` says where the next job in one runs."""
    files = JobPaths(Path(spec.place.directory))
    for path in (files.outcome, files.progress, files.log, files.documents, files.samples):
        path.unlink(missing_ok=True)
    placed = spec.model_copy(update={"place": place(files.directory).alone()})
    write_text_atomically(files.spec, redacted_json(placed))
    executor.submit(placed)


def explain(
    study: LoadedStudy,
    step: str,
    outcome: Outcome | None,
    files: JobPaths,
    fault: Failure | None = None,
) -> Exception:
    """Return the error to stop the study with after a step failed.

    Bad input is the user's to fix: the error names its place in the study file. Any other error
    names the log. ``fault`` is that of the device that ended a step without an outcome, if one did.
    """
    failure = outcome.failure if outcome else fault
    if outcome is not None and outcome.examination and outcome.examination.problems:
        return ConfigError([problem_of(study, problem) for problem in outcome.examination.problems])
    if failure is not None and failure.kind in ("bad_input", "full_disk", "server"):
        return stopped_by(study, failure)
    reason = failure.told() if failure else "its process ended without an outcome"
    return SweeperError(f"The preparation ({step}) failed: {reason}\nThe log is {files.log}.")


def stopped_by(study: LoadedStudy, failure: Failure) -> SweeperError:
    """Return the error for a failure that stops the study; bad input names its key's place."""
    if failure.kind == "full_disk":
        return FullDiskError(failure.message)
    if failure.kind == "server":
        return SweeperError(failure.message)
    return ConfigError([problem_of(study, failure)])


def problem_of(study: LoadedStudy, failure: Failure) -> Problem:
    """Return a problem with the input, at the place of its key in the study file."""
    if failure.key:
        return study.file.problem(failure.key, failure.message)
    return Problem(source=str(study.path), message=failure.message)


def _shards(config: StudyConfig) -> tuple[Literal["shard_teacher", "shard_student"], ...]:
    compute = config.compute
    return (
        *(("shard_teacher",) if compute.shard_teacher else ()),
        *(("shard_student",) if compute.shard_student else ()),
    )


def _optimisers(study: LoadedStudy) -> dict[str, tuple[str, ...]]:
    """Return the optimisers that each arm may train with."""
    default = ((), study.config.training.optim)
    return {
        name: tuple(str(value) for _, value in (*arm.places("optim"),) or (default,))
        for name, arm in study.config.arms.items()
    }
