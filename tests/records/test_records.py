"""Records cross walls as JSON: what is written is what is read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from pydantic import TypeAdapter, ValidationError

from sweeper.config.loading import load_study
from sweeper.config.settings import effective, model_settings, resolve
from sweeper.config.study import StudyConfig
from sweeper.records import SCHEMA_VERSION, JobSpec, Outcome, Resources, TrialSpec
from sweeper.records.layout import StudyPaths
from sweeper.records.seeds import trial_seed
from sweeper.study.manifest import open_manifest, suite_spec
from sweeper.study.preparation import make_spec, make_study_inputs


@pytest.fixture
def trial_spec(write_study: Callable[..., Path], tmp_path: Path) -> TrialSpec:
    study = load_study(write_study(training={"max_steps": 4}))
    training = study.config.training.model_copy(update={"extra": {"x": [1, None]}})
    snapshot = open_manifest(study, StudyPaths(tmp_path, "tiny"), ["sweeper"], 1)
    params = {"lmbda": 0.5, "extra.y": True, "lora.r": 4, "teacher.init_kwargs.z": None}
    return TrialSpec(
        origin=make_study_inputs(study, snapshot, tmp_path),
        arm="gkd",
        method="gkd",
        number=3,
        seed=trial_seed(3, "gkd", 3),
        params=params,
        settings=resolve(training, {"max_new_tokens": 8}, params),
        lora=model_settings("lora", params),
        teacher=model_settings("teacher", params),
        suite=suite_spec(study.selection),
        place=Resources(directory=str(tmp_path), device="cpu", threads=1),
    )


def test_a_spec_is_read_as_it_was_written(trial_spec: TrialSpec) -> None:
    jobs: TypeAdapter[JobSpec] = TypeAdapter(JobSpec)
    read = jobs.validate_json(trial_spec.model_dump_json())
    assert read == trial_spec
    assert read.schema_version == SCHEMA_VERSION
    assert isinstance(read, TrialSpec)
    assert read.settings.extra == {"x": [1, None], "y": True}
    assert (read.lora, read.teacher) == ({"r": 4}, {"init_kwargs.z": None})


def test_a_preparation_is_read_as_it_was_written(
    trial_spec: TrialSpec, write_study: Callable[..., Path], tmp_path: Path
) -> None:
    study = load_study(write_study())
    paths = StudyPaths(tmp_path, "tiny").preparation("data")
    spec = make_spec(study, trial_spec.origin, suite_spec(study.selection), "data", paths)
    jobs: TypeAdapter[JobSpec] = TypeAdapter(JobSpec)
    assert jobs.validate_json(spec.model_dump_json()) == spec
    assert spec.test_suite is not None
    other = make_spec(study, trial_spec.origin, suite_spec(study.selection), "teacher", paths)
    assert other.test_suite is None


def test_records_are_frozen_and_closed(trial_spec: TrialSpec) -> None:
    with pytest.raises(ValidationError, match="frozen"):
        trial_spec.number = 4  # type: ignore[misc]
    with pytest.raises(ValidationError, match="Extra inputs"):
        Outcome.model_validate({"state": "failed", "started": 0, "finished": 1, "loss": 2})


def test_settings_are_layered_over_the_studys() -> None:
    study = StudyConfig.model_validate(
        {
            "study": "s",
            "teacher": {"model": "t"},
            "student": {"model": "s"},
            "data": {"train": {"path": "d"}},
            "training": {"max_steps": 7, "learning_rate": 0.5, "extra": {"a": 1, "b": 1}},
            "arms": {"sft": {}},
            "evaluation": {"selection": "x"},
        }
    )
    fixed = {"learning_rate": 0.25, "extra.b": 2, "extra": {"c": 3}}
    settings = resolve(study.training, fixed, {"weight_decay": 0.1, "extra.c": 4, "lora.r": 1})
    assert (settings.max_steps, settings.learning_rate, settings.weight_decay) == (7, 0.25, 0.1)
    assert settings.extra == {"a": 1, "b": 2, "c": 4}
    assert study.training.extra == {"a": 1, "b": 1}
    assert (settings.lmbda, settings.beta) == (0.5, 0.5)
    assert effective("gkd", settings) is settings
    supervised = effective("supervised_kd", settings)
    assert (supervised.lmbda, supervised.beta) == (0.0, 0.0)
