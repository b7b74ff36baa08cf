"""A study takes its precision from its devices once, when it starts, and never changes it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sweeper.config.device_defaults import CPU, DeviceKind
from sweeper.config.loading import LoadedStudy, load_study
from sweeper.foundation.errors import ConfigError, StudyChangedError
from sweeper.foundation.files import write_text_atomically
from sweeper.records import Resources
from sweeper.records.layout import StudyPaths
from sweeper.search.arm_search import Asked
from sweeper.study.device_precision import as_recorded, kinds_here, with_precision
from sweeper.study.manifest import (
    StudyManifest,
    changes,
    open_manifest,
    read_manifest,
    suite_spec,
)
from sweeper.study.preparation import is_done, make_spec, make_study_inputs
from sweeper.study.trial_specs import TrialSpecs
from sweeper.tracking.mapping import trial_params
from tests.support.gpus import report_gpus

H200, V100 = DeviceKind("cuda", "NVIDIA H200", 9.0), DeviceKind("cuda", "Tesla V100", 7.0)
FAST = {"bf16": True, "tf32": True, "optim": "adamw_torch_fused"}
EXACT = {"bf16": False, "tf32": False, "optim": "adamw_torch"}


class Started:
    """A study that is started, and resumed, on one kind of device and another."""

    def __init__(self, file: Path, folder: Path) -> None:
        self.file, self.paths = file, StudyPaths(folder / "runs", "tiny")
        self.message: str | None = None

    def on(self, *kinds: DeviceKind, overrides: Sequence[str] = ()) -> LoadedStudy:
        """Open the study; return it as it runs."""
        study = load_study(self.file, overrides)
        study, self.message = with_precision(study, self.paths, kinds)
        open_manifest(study, self.paths, ["sweeper", "run"], 1)
        return study

    def begin(self) -> None:
        """Leave a trial, after which nothing may change."""
        write_text_atomically(self.paths.trial("gkd", 0).spec, "{}")

    @property
    def manifest(self) -> StudyManifest:
        """What is recorded."""
        found = read_manifest(self.paths)
        assert found is not None
        return found


@pytest.fixture
def started(write_study: Callable[..., Path], tmp_path: Path) -> Started:
    return Started(write_study(study="tiny"), tmp_path)


def precision(study: LoadedStudy) -> dict[str, Any]:
    return {key: getattr(study.config.training, key) for key in FAST}


def test_the_devices_values_are_recorded_as_if_they_had_been_written(started: Started) -> None:
    assert precision(started.on(H200)) == FAST
    recorded = started.manifest
    assert recorded.device_defaults is not None
    assert recorded.device_defaults.device == "NVIDIA H200 (compute capability 9.0)"
    assert recorded.written["training"].items() >= FAST.items()
    assert recorded.config.evaluation.dtype == "bfloat16"


@pytest.mark.parametrize(("first", "then"), [(H200, CPU), (CPU, H200), (V100, H200), (H200, V100)])
def test_a_study_keeps_its_precision_or_is_refused(
    started: Started, first: DeviceKind, then: DeviceKind
) -> None:
    before = precision(started.on(first))
    started.begin()
    recorded = started.manifest
    assert precision(started.on(first)) == before and started.message is None
    if first == H200:
        with pytest.raises(ConfigError) as caught:
            started.on(then)
        keys = {problem.path for problem in caught.value.problems}
        assert "training.tf32" in keys and ("training.bf16" in keys) == (then == V100)
        assert f"on NVIDIA H200 (compute capability 9.0), but {then.described()}" in str(
            caught.value
        )
    else:
        assert precision(started.on(then)) == before == EXACT
        assert started.message is not None
        assert "bf16: false" in started.message and "bf16: true" in started.message
    assert started.manifest == recorded


def test_a_study_without_trials_starts_anew_on_other_devices(started: Started) -> None:
    started.on(CPU)
    first = started.manifest
    assert precision(started.on(H200)) == FAST
    assert started.manifest.identity != first.identity
    assert changes(first, started.on(H200))


def test_what_the_user_writes_later_is_a_change_unless_it_is_what_was_taken(
    started: Started,
) -> None:
    started.on(H200)
    started.begin()
    assert precision(started.on(H200, overrides=["training.bf16=true"])) == FAST
    with pytest.raises(StudyChangedError, match=r"training\.bf16: was true, now false"):
        started.on(H200, overrides=["training.bf16=false"])
    started.on(H200)


def test_what_was_written_and_no_longer_is_does_not_come_from_the_devices(
    started: Started,
) -> None:
    started.on(H200, overrides=["training.bf16=false"])
    started.begin()
    with pytest.raises(StudyChangedError, match=r"training\.bf16"):
        started.on(H200, overrides=["training.bf16=true"])
    assert not started.on(H200).config.training.bf16


def test_devices_decide_nothing_in_a_study_of_an_earlier_version(started: Started) -> None:
    study = load_study(started.file)
    open_manifest(study, started.paths, ["sweeper", "run"], 1)
    started.begin()
    for kind in (H200, V100, CPU):
        resumed = started.on(kind)
        assert precision(resumed) == EXACT and started.message is None
        assert started.manifest.device_defaults is None


def test_other_commands_see_the_study_as_it_was_started(started: Started) -> None:
    started.on(H200)
    started.begin()
    study = load_study(started.file)
    assert changes(started.manifest, study)
    assert changes(started.manifest, as_recorded(study, started.manifest)) == []


def test_jobs_get_what_was_taken_and_are_done_again_when_it_changes(
    started: Started, tmp_path: Path
) -> None:
    def spec(study: LoadedStudy) -> Any:
        inputs = make_study_inputs(study, started.manifest, tmp_path)
        files, suite = started.paths.preparation("teacher"), suite_spec(study.selection)
        return make_spec(study, inputs, suite, "teacher", files)

    study = started.on(H200)
    assert spec(study).origin.training.model_dump().items() >= FAST.items()
    slower = started.on(CPU)
    assert spec(slower).origin.training != spec(study).origin.training
    assert not is_done(spec(slower), started.paths)


def test_every_trial_and_its_run_in_mlflow_show_the_precision(
    started: Started, tmp_path: Path
) -> None:
    study = started.on(H200)
    inputs = make_study_inputs(study, started.manifest, tmp_path)
    config, files = study.config, started.paths.trial("gkd", 1)
    specs = TrialSpecs(
        config.arms, inputs, suite_spec(study.selection), config.training, config.compute
    )
    place = Resources(directory=str(files.directory), device="cuda:0", threads=1)
    for arm in config.arms:
        spec = specs.next(arm, Asked(1, {}), place, files)
        assert spec.settings.model_dump().items() >= FAST.items()
        shown = trial_params(spec)
        assert [shown[f"training/{key}"] for key in FAST] == ["true", "true", "adamw_torch_fused"]


def test_the_kinds_of_this_machine_are_those_that_trials_may_use(
    started: Started, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    report_gpus(monkeypatch, tmp_path, 2, capabilities=("9.0", "7.0"))
    study = load_study(started.file)

    def kinds(**compute: Any) -> list[float | None]:
        changed = study.config.compute.model_copy(update=compute)
        config = study.config.model_copy(update={"compute": changed})
        return [kind.capability for kind in kinds_here(replace(study, config=config))]

    assert kinds(device="auto") == [9.0, 7.0]
    assert kinds(device="cuda:0") == [9.0]
    assert kinds(device="cpu") == [None]
