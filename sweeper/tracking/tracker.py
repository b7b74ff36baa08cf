"""The contract of a tracker, which records a study for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

from sweeper.config.settings import Method
from sweeper.records import DataSummary, Outcome, Progress, StudyInputs, TrialSpec
from sweeper.records.layout import JobPaths
from sweeper.records.study_record import Provenance, StudyRecord
from sweeper.tracking.mapping import Role
from sweeper.tracking.points import MetricPoint

StudyEnd = Literal["finished", "failed", "interrupted"]


class Tracker(Protocol):
    """Records a study for people: a study run, below it one run per arm, below it one per trial.

    One process, the study's coordinator, calls a tracker, from one thread. It may be killed at any
    moment and started again, and then calls everything again: each method does nothing where its
    effect is already recorded, and completes what was recorded in part. A trial has one run,
    whatever the number of its attempts. Nothing is ever read back from a tracker to decide what a
    study does.
    """

    def connect(self) -> None:
        """Reach the place where runs are kept, and record nothing: a study may yet be refused.

        Raises:
            SweeperError: It cannot be reached or used.
        """

    def open_study(
        self,
        inputs: StudyInputs,
        arms: Sequence[str],
        sampler: str,
        provenance: Provenance,
        study_text: str,
    ) -> None:
        """Find or make the study's run and set it running; before anything else is recorded.

        Args:
            inputs: What all jobs of the study share.
            arms: The arms' names.
            sampler: The type of the study's sampler.
            provenance: Revision, versions and hardware of this process.
            study_text: The study file; passwords in it are not stored.

        Raises:
            SweeperError: The place where runs are kept cannot be reached or used.
        """

    def log_data(self, summary: DataSummary) -> None:
        """Record the training data as an input of the study, and of every trial from now on."""

    def log_baseline(self, role: Role, outcome: Outcome, *, test: bool = False) -> None:
        """Record the scores of the teacher, or of the student that every arm starts from.

        The scores are on the selection suite, or on the ``test`` suite.
        """

    def log_pair(self, outcome: Outcome) -> None:
        """Record the diagnosis of teacher and starting student with the study."""

    def log_engines(self, outcome: Outcome) -> None:
        """Record with the study what samples its rollouts, and how fast each engine was."""

    def open_arm(
        self,
        name: str,
        method: Method,
        budget: int,
        settings: Mapping[str, Any],
        search: Mapping[str, Any],
    ) -> None:
        """Find or make an arm's run and set it running; ``budget`` in trials, and it may grow.

        ``settings`` and ``search`` are what the study file fixes and searches, as written there.
        """

    def start_trial(self, spec: TrialSpec) -> None:
        """Find or make a trial's run and set it running; nothing if this attempt has ended.

        Raises:
            LookupError: The trial's arm was not opened.
        """

    def log_progress(self, spec: TrialSpec, rows: Sequence[Progress]) -> None:
        """Add points to a trial's curves; rows that were logged before change nothing.

        Points of an earlier attempt stay, with their own times.

        Raises:
            LookupError: The trial was never started.
        """

    def finish_trial(self, spec: TrialSpec, outcome: Outcome, files: JobPaths) -> None:
        """Record how a trial ended: scores, costs, state, versions, and the files that exist.

        Works without ``start_trial`` too, for an outcome that an earlier process left.

        Raises:
            LookupError: The trial's arm was not opened.
        """

    def log_server_costs(self, record: StudyRecord) -> None:
        """Record the trials' costs again, with their shares of what served models' servers cost.

        The shares change until a study ends, so that this comes right before ``finish_study``.
        Nothing is recorded for trials that pay for no server.
        """

    def finish_study(
        self, files: Sequence[Path], state: StudyEnd, verdict: Sequence[MetricPoint] = ()
    ) -> None:
        """Store the report's files and the verdict, and end the runs of the arms and the study.

        Trials that still run are recorded as killed; ``start_trial`` sets them running again.
        """

    def close(self) -> None:
        """Return when everything is stored."""
