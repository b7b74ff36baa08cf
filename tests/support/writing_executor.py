"""A coordinator whose jobs are done by writing their files, and what must be left of a study."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import optuna

from sweeper.config.loading import load_study
from sweeper.execution.executor import Finished, Spec
from sweeper.foundation.cache import Cache
from sweeper.foundation.files import append_json_line, write_text_atomically
from sweeper.records import (
    Cost,
    DataSummary,
    Outcome,
    Progress,
    Resources,
    Scores,
    TaskScore,
    TrialSpec,
)
from sweeper.records.layout import JobPaths, StudyPaths
from sweeper.records.outcome_files import read_outcome
from sweeper.records.seeds import derive_seed
from sweeper.records.study_record import StudyRecord
from sweeper.study.collaborators import Collaborators, RunningStudy
from sweeper.study.coordinator import Coordinator
from sweeper.study.manifest import open_manifest
from tests.support.memory_tracker import MemoryRun, MemoryStore, MemoryTracker

STARTED = 1_760_000_000.0
ARMS = {
    "gkd": {
        "search": {
            "lmbda": {"type": "float", "low": 0.0, "high": 1.0},
            "beta": {"type": "categorical", "choices": [0.0, 0.5, 1.0]},
        }
    },
    "sft": {"trials": 1},
}


@dataclass
class WritingExecutor:
    """Runs one job at a time, by writing its files; it ends when it is waited for twice."""

    submitted: list[tuple[str, int]] = field(default_factory=list)
    """Trials by arm and number."""
    _running: list[Spec] = field(default_factory=list)
    _waited: bool = False

    def __enter__(self) -> WritingExecutor:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def free(self) -> int:
        return 1 - len(self._running)

    def devices(self) -> tuple[str, ...]:
        return ("cpu",)

    def next_resources(self, directory: Path) -> Resources:
        return Resources(directory=str(directory), device="cpu", threads=1)

    def submit(self, spec: Spec) -> None:
        assert self.free()
        assert JobPaths(Path(spec.place.directory)).spec.exists()
        self._running.append(spec)
        if isinstance(spec, TrialSpec):
            self.submitted.append((spec.arm, spec.number))
        files = JobPaths(Path(spec.place.directory))
        point = Progress(time=STARTED + 1, phase="train", step=1, max_steps=1, metrics={"loss": 1})
        append_json_line(files.progress, point.model_dump(exclude_defaults=True))

    def wait(self, timeout: float) -> list[Finished]:
        if not self._waited:
            self._waited = True
            return []
        done, self._running, self._waited = self._running, [], False
        for spec in done:
            outcome = self.outcome_of(spec).model_dump_json()
            write_text_atomically(JobPaths(Path(spec.place.directory)).outcome, outcome)
        files = [JobPaths(Path(spec.place.directory)) for spec in done]
        return [Finished(spec, read_outcome(f), "") for spec, f in zip(done, files, strict=True)]

    def outcome_of(self, spec: Spec) -> Outcome:
        """How a job ends."""
        return outcome_of(spec)

    def running(self) -> list[Spec]:
        return list(self._running)

    def stop(self) -> None:
        self._running, self._waited = [], False


def outcome_of(spec: Spec) -> Outcome:
    """How a job ends, which follows from what it was told."""
    text = json.dumps(spec.params, sort_keys=True) if isinstance(spec, TrialSpec) else spec.step
    value = derive_seed(0, text) / 2**31
    task = TaskScore(
        task="addition",
        metric="exact_match",
        score=value,
        stderr=0.1,
        documents=12,
        higher_is_better=True,
        weight=1.0,
    )
    scores = Scores(
        suite="selection",
        suite_hash="h",
        score=value,
        stderr=0.1,
        higher_is_better=True,
        tasks=(task,),
        seconds=0.1,
    )
    data = DataSummary(
        rows=24,
        used=24,
        fingerprint="ab" * 32,
        source="builtin/addition",
        prompt_tokens=9.0,
        completion_tokens=4.0,
        chat=False,
    )
    step = "" if isinstance(spec, TrialSpec) else spec.step
    checks = step == "data"
    written = _start_weights(spec) if step == "start" else None
    return Outcome(
        state="completed",
        scores=None if checks or written else scores,
        data=data if checks else None,
        cost=Cost(steps=1, device_seconds=2.0),
        attempt=spec.attempt,
        start_weights=written,
        cached=(written,) if written else (),
        started=STARTED,
        finished=STARTED + 2,
    )


def _start_weights(spec: Spec) -> str:
    """Write what a server of students' weights starts with, which nobody reads here."""
    cache = Cache(Path(spec.origin.cache))
    return str(cache.get_or_compute("start_weights", {"start": "it"}, lambda folder: None))


class Silence:
    """An observer that shows nothing."""

    def update(self, run: RunningStudy) -> None:
        """See ``Observer``."""

    def ended(self, spec: TrialSpec, outcome: Outcome) -> None:
        pass

    def message(self, text: str) -> None:
        """See ``Observer``."""


def go_on(study_file: Path, tracker: MemoryTracker, executor: WritingExecutor) -> StudyRecord:
    """What a new process would do."""
    study = load_study(study_file)
    paths = StudyPaths(study_file.parent / "runs", study.config.study)
    manifest = open_manifest(study, paths, ["sweeper", "run"], 1)
    with executor:
        collaborators = Collaborators(executor, tracker, Silence())
        cache = study_file.parent / "cache"
        return Coordinator(study, paths, manifest, cache, collaborators).run()


def trial_runs(store: MemoryStore) -> dict[tuple[str, int], MemoryRun]:
    """The tracker's runs of trials; there is one of each."""
    found = [run for run in store.runs.values() if run.tags["sweeper.kind"] == "trial"]
    keyed = {(run.tags["sweeper.arm"], int(run.tags["sweeper.trial"])): run for run in found}
    assert len(keyed) == len(found)
    return keyed


def params(record: StudyRecord) -> dict[tuple[str, int], dict[str, Any]]:
    return {(arm.name, trial.number): trial.params for arm in record.arms for trial in arm.trials}


def check(study_file: Path, record: StudyRecord, store: MemoryStore) -> None:
    """That files, Optuna and the tracker tell of the same finished trials, once each."""
    runs = trial_runs(store)
    paths = StudyPaths(study_file.parent / "runs", "tiny")
    for arm in record.arms:
        storage = f"sqlite:///{paths.optuna}"
        told = optuna.load_study(study_name=f"tiny/{arm.name}", storage=storage).trials
        assert [trial.number for trial in told] == list(range(arm.budget))
        assert [trial.state.name for trial in told] == ["COMPLETE"] * arm.budget
        assert [trial.number for trial in arm.trials] == list(range(arm.budget))
        for trial, known in zip(arm.trials, told, strict=True):
            assert trial.outcome is not None
            assert trial.outcome.scores is not None
            assert known.params == trial.params
            assert known.value == trial.outcome.scores.score
            run = runs.pop((arm.name, trial.number))
            assert (run.status, run.tags["sweeper.state"]) == ("FINISHED", "completed")
            [score] = [point for point in run.points if point.key == "score/selection"]
            assert score.value == known.value
            assert [point.key for point in run.points].count("train/loss") == 1
            assert paths.trial(arm.name, trial.number).recorded.exists()
    assert runs == {}
