"""Jobs of a study file: the spec of a trial, and a step of the preparation."""

from __future__ import annotations

from pathlib import Path

from sweeper.config.loading import LoadedStudy, load_study
from sweeper.config.settings import effective, resolve
from sweeper.execution.worker.run import run_job
from sweeper.records import Outcome, Resources, TrialSpec
from sweeper.records.layout import JobPaths, StudyPaths
from sweeper.study import preparation
from sweeper.study.manifest import open_manifest, suite_spec


def trial_spec(study: LoadedStudy, arm: str) -> TrialSpec:
    """The spec of an arm's first trial, with nothing sampled."""
    config = study.config
    paths = StudyPaths(study.path.parent / "runs", config.study)
    snapshot = open_manifest(study, paths, ["test"], 1)
    files = paths.trial(arm, 0)
    files.directory.mkdir(parents=True, exist_ok=True)
    settings = resolve(config.training, config.arms[arm].settings)
    return TrialSpec(
        origin=preparation.make_study_inputs(study, snapshot, study.path.parent / "cache"),
        arm=arm,
        method=config.arms[arm].method,
        number=0,
        seed=1,
        params={},
        settings=effective(config.arms[arm].method, settings),
        suite=suite_spec(study.selection),
        place=Resources(directory=str(files.directory), device="cpu", threads=1),
    )


def prepare(study: LoadedStudy, step: preparation.Step) -> tuple[Outcome, JobPaths]:
    """Do one step of the preparation."""
    paths = StudyPaths(study.path.parent / "runs", study.config.study)
    snapshot = open_manifest(study, paths, ["test"], 1)
    files = paths.preparation(step)
    files.directory.mkdir(parents=True, exist_ok=True)
    origin = preparation.make_study_inputs(study, snapshot, study.path.parent / "cache")
    spec = preparation.make_spec(study, origin, suite_spec(study.selection), step, files)
    return run_job(spec), files


def make_spec(study_file: Path, number: int = 0, **training: object) -> TrialSpec:
    """The spec of a trial of the arm ``sft``, with those keys of ``training`` changed."""
    overrides = [f"training.{key}={value}" for key, value in training.items()]
    study = load_study(study_file, overrides)
    paths = StudyPaths(study_file.parent / "runs", study.config.study)
    snapshot = open_manifest(study, paths, ["test"], 1)
    files = paths.trial("sft", number)
    files.directory.mkdir(parents=True, exist_ok=True)
    return TrialSpec(
        origin=preparation.make_study_inputs(study, snapshot, study_file.parent / "cache"),
        arm="sft",
        method="sft",
        number=number,
        seed=number,
        params={},
        settings=resolve(study.config.training),
        suite=suite_spec(study.selection),
        place=Resources(directory=str(files.directory), device="cpu", threads=1),
    )
