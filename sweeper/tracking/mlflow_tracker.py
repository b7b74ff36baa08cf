"""The tracker that records a study in MLflow: which runs there are, and what is written when."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from sweeper.config.settings import Method
from sweeper.foundation.secrets import redact, redacted
from sweeper.records import DataSummary, Outcome, Progress, StudyInputs, TrialSpec
from sweeper.records.layout import JobPaths
from sweeper.records.study_record import Provenance, StudyRecord
from sweeper.tracking import mapping, points
from sweeper.tracking.mapping import Role
from sweeper.tracking.mlflow_store import MlflowStore, Run, RunStatus
from sweeper.tracking.points import MetricPoint
from sweeper.tracking.tracker import StudyEnd, Tracker

_END: dict[StudyEnd, RunStatus] = {
    "finished": "FINISHED",
    "failed": "FAILED",
    "interrupted": "KILLED",
}
_DATA = "sweeper.data_fingerprint"
_JOBS = ("trial", "final")
"""Kinds of runs of one job each: trials of the search, and confirmation runs."""
_STALE = ("sweeper.failure_kind", "sweeper.failure")


_Key = tuple[str, str | None, int | None]


class MlflowTracker(Tracker):
    """A study's runs in MLflow.

    Every method may be called again: runs are looked up by their tags before one is created, and
    nothing is written that the run already has.

    Args:
        store: The runs of one experiment. This object is its only writer for this study.
        study: The study's name.
        identity: Tells apart studies of one name in a shared store (two people, or a study that was
            deleted and started anew). All processes that run one study share it.
        clock: Returns the seconds since the epoch.
    """

    def __init__(
        self,
        store: MlflowStore,
        study: str,
        identity: str | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._marks = {"sweeper.study": study}
        if identity is not None:
            self._marks["sweeper.identity"] = identity
        self._clock = clock
        self._runs: dict[_Key, Run] = {}
        self._common: dict[str, str] = {}
        self._data: DataSummary | None = None
        self._opened = False

    def connect(self) -> None:
        """Reach MLflow, and record nothing there."""
        self._store.connect()

    def open_study(
        self,
        inputs: StudyInputs,
        arms: Sequence[str],
        sampler: str,
        provenance: Provenance,
        study_text: str,
    ) -> None:
        """Find or make the study's run, and set it running."""
        self._runs.clear()
        self._store.open()
        # Of the trials only those that an earlier process left running: there may be thousands.
        for kind in ("study", "arm", *_JOBS):
            marks = {**self._marks, "sweeper.kind": kind}
            for run in self._store.find(marks, running=kind in _JOBS):
                self._runs.setdefault(_key_of(run.tags), run)
        self._opened = True
        self._common = mapping.code_tags(provenance)
        tags = mapping.study_tags(inputs, arms, provenance)
        run = self._ensure(
            ("study", None, None),
            {mapping.RUN_NAME: inputs.study, **tags},
            start=provenance.started,
        )
        self._write(
            run,
            params=mapping.study_params(inputs, sampler),
            tags={**tags, "sweeper.state": "running"},
        )
        self._set_status(run, "RUNNING")
        self._store.add_text(run, "study.yaml", redact(study_text))
        text = json.dumps(provenance.model_dump(mode="json"), indent=2)
        self._store.add_text(run, "provenance.json", redact(text))

    def log_data(self, summary: DataSummary) -> None:
        """Record the training data with the study, and with every trial from now on."""
        self._data = summary
        self._add_data(self._study())

    def log_baseline(self, role: Role, outcome: Outcome, *, test: bool = False) -> None:
        """Record the scores of the teacher or of the starting student with the study."""
        self._write(self._study(), points=points.baseline_points(role, outcome, test=test))

    def log_pair(self, outcome: Outcome) -> None:
        """Record the diagnosis of teacher and starting student with the study."""
        self._write(self._study(), points=points.pair_points(outcome))

    def log_engines(self, outcome: Outcome) -> None:
        """Record with the study what samples its rollouts, and how fast each engine was."""
        tags = mapping.engine_tags(outcome)
        self._write(self._study(), points=points.engine_points(outcome), tags=tags)

    def open_arm(
        self,
        name: str,
        method: Method,
        budget: int,
        settings: Mapping[str, Any],
        search: Mapping[str, Any],
    ) -> None:
        """Find or make an arm's run, and set it running."""
        # The budget may grow when a study is continued, which a parameter cannot.
        tags = mapping.as_tags(
            {
                mapping.RUN_NAME: name,
                mapping.NOTE: f"Arm `{name}`: {method}, {budget} trials, one child run each.",
                "sweeper.method": method,
                "sweeper.budget": budget,
                "sweeper.state": "running",
            }
        )
        run = self._ensure(("arm", name, None), tags, parent=self._study())
        self._write(run, params=mapping.arm_params(name, method, settings, search), tags=tags)
        self._set_status(run, "RUNNING")

    def start_trial(self, spec: TrialSpec) -> None:
        """Find or make a trial's run, and set it running."""
        run = self._trial(spec, start=None)
        ended = run.tags.get("sweeper.state") in ("completed", "pruned", "failed")
        if ended and run.tags.get("sweeper.attempt") == str(spec.attempt):
            return
        if stale := [name for name in _STALE if name in run.tags]:
            self._store.remove_tags(run, stale)
            for name in stale:
                del run.tags[name]
        self._write(run, tags=mapping.trial_tags(spec))
        self._set_status(run, "RUNNING")

    def log_progress(self, spec: TrialSpec, rows: Sequence[Progress]) -> None:
        """Add points to a trial's curves."""
        run = self._runs.get(_key(spec))
        if run is None:
            raise LookupError(
                f"start_trial must come before log_progress, for {spec.arm} #{spec.number}."
            )
        self._write(run, points=points.curve_points(rows))

    def finish_trial(self, spec: TrialSpec, outcome: Outcome, files: JobPaths) -> None:
        """Record how a trial ended."""
        run = self._trial(spec, start=outcome.started)
        self._write(run, points.outcome_points(outcome), tags=mapping.outcome_tags(spec, outcome))
        shown = redacted(spec.model_dump(mode="json"))
        self._store.add_text(run, files.spec.name, json.dumps(shown, indent=1))
        for path in (files.log, files.samples, files.documents, files.test_documents):
            if path.is_file():
                self._store.add_file(run, path)
        # Last: a run that is FINISHED or FAILED has everything.
        status: RunStatus = "FAILED" if outcome.state == "failed" else "FINISHED"
        self._set_status(run, status, outcome.finished)
        # Nothing more is written there, and its tags and parameters take room.
        del self._runs[_key(spec)]

    def log_server_costs(self, record: StudyRecord) -> None:
        """Record the trials' costs again, with their shares of what served models' servers cost."""
        if costs := points.server_points(record):
            for kind in _JOBS:
                for run in self._store.find({**self._marks, "sweeper.kind": kind}):
                    self._write(run, costs.get(_key_of(run.tags), ()))

    def finish_study(
        self, files: Sequence[Path], state: StudyEnd, verdict: Sequence[points.MetricPoint] = ()
    ) -> None:
        """Store the report's files and the verdict, and end the runs."""
        study = self._study()
        if verdict:
            self._write(study, verdict)
        for path in files:
            if path.is_file():
                self._store.add_file(study, path, "report")
        for (kind, _, _), run in self._runs.items():
            if kind in _JOBS and run.status == "RUNNING":
                self._write(run, tags={"sweeper.state": "interrupted"})
                self._set_status(run, "KILLED")
            elif kind == "arm":
                self._end(run, state)
        self._end(study, state)

    def close(self) -> None:
        """Return when everything is stored; every write has waited for that."""

    def _end(self, run: Run, state: StudyEnd) -> None:
        self._write(run, tags={"sweeper.state": state})
        self._set_status(run, _END[state])

    def _study(self) -> Run:
        if not self._opened:
            raise RuntimeError("open_study must be the first call.")
        return self._runs["study", None, None]

    def _trial(self, spec: TrialSpec, start: float | None) -> Run:
        arm = self._runs.get(("arm", spec.arm, None))
        if arm is None:
            raise LookupError(f"open_arm must come before the trials of {spec.arm!r}.")
        key = _key(spec)
        tags = {**self._common, **mapping.trial_tags(spec)}
        run = self._ensure(key, tags, parent=arm, start=start)
        # Also for a run that exists: the process may have been killed after creating it.
        self._add_data(run, mapping.trial_params(spec))
        return run

    def _add_data(self, run: Run, params: Mapping[str, str] | None = None) -> None:
        tags = {}
        if self._data is not None and run.tags.get(_DATA) != self._data.fingerprint:
            self._store.add_dataset(run, mapping.dataset_of(self._data))
            # After the data set, so that a run with the tag surely has it.
            tags[_DATA] = self._data.fingerprint
        self._write(run, params=params, tags=tags)

    def _ensure(
        self,
        key: _Key,
        tags: Mapping[str, str],
        parent: Run | None = None,
        start: float | None = None,
    ) -> Run:
        if key not in self._runs:
            kind, arm, number = key
            marks = {**self._marks, "sweeper.kind": kind}
            if arm is not None:
                marks["sweeper.arm"] = arm
            if number is not None:
                marks["sweeper.trial"] = str(number)
            if parent is not None:
                marks[mapping.PARENT] = parent.id
            when = self._clock() if start is None else start
            earlier = self._find_trial(marks) if kind in _JOBS else None
            run = earlier or self._store.create({**tags, **marks}, round(when * 1000))
            self._runs[key] = run
        return self._runs[key]

    def _find_trial(self, marks: Mapping[str, str]) -> Run | None:
        # By the tags that few runs share: each further one makes the query slower.
        wanted = {**self._marks, "sweeper.trial": marks["sweeper.trial"]}
        alike = self._store.find(wanted)
        return next((run for run in alike if _key_of(run.tags) == _key_of(marks)), None)

    def _write(
        self,
        run: Run,
        points: Sequence[MetricPoint] = (),
        params: Mapping[str, str] | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> None:
        """Write what the run does not have yet.

        A parameter cannot change, but a retry may run with another batch size: what differs from
        the first attempt becomes the tag ``sweeper.changed``.
        """
        params, tags = params or {}, dict(tags or {})
        changed = {k: value for k, value in params.items() if run.params.get(k, value) != value}
        if changed:
            tags["sweeper.changed"] = mapping.text_of(changed, mapping.LONGEST_TAG)
        new_params = {key: value for key, value in params.items() if key not in run.params}
        new_tags = {key: value for key, value in tags.items() if run.tags.get(key) != value}
        if points or new_params or new_tags:
            self._store.write(run, points, new_params, new_tags)
            run.params.update(new_params)
            run.tags.update(new_tags)

    def _set_status(self, run: Run, status: RunStatus, end: float | None = None) -> None:
        if run.status == status:
            return
        ends = None if status == "RUNNING" else round((end or self._clock()) * 1000)
        self._store.set_status(run, status, ends)
        run.status = status


def _key(spec: TrialSpec) -> _Key:
    return ("trial" if spec.final is None else "final", spec.arm, spec.number)


def _key_of(tags: Mapping[str, str]) -> _Key:
    number = tags.get("sweeper.trial")
    return (
        tags.get("sweeper.kind", ""),
        tags.get("sweeper.arm"),
        None if number is None else int(number),
    )
