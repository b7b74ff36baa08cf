"""The contract of a tracker, and one that remembers everything in memory, for tests."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from sweeper.config.settings import Method
from sweeper.config.study import StudyConfig
from sweeper.records import DataSummary, Outcome, Progress, TrialSpec
from sweeper.records.layout import JobPaths
from sweeper.records.study_record import Provenance
from sweeper.tracking.mapping import Dataset, MetricPoint, Role
from sweeper.tracking.runs import Run, RunStatus, RunTracker, StudyEnd


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

    def open_study(self, config: StudyConfig, provenance: Provenance, study_text: str) -> None:
        """Find or make the study's run and set it running; what is recorded comes after it.

        Args:
            config: The study.
            provenance: Revision, versions and hardware of this process.
            study_text: The study file; passwords in it are not stored.

        Raises:
            SweeperError: The place where runs are kept cannot be reached or used.
        """

    def log_data(self, summary: DataSummary) -> None:
        """Note the training data as an input of the study, and of every trial from now on."""

    def log_baseline(self, role: Role, outcome: Outcome, *, test: bool = False) -> None:
        """Note the scores of the teacher, or of the student that every arm starts from.

        On the selection suite, or on the ``test`` suite.
        """

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

        Works without ``start_trial`` too, for an outcome that is found at start.

        Raises:
            LookupError: The trial's arm was not opened.
        """

    def finish_study(
        self, files: Sequence[Path], state: StudyEnd, verdict: Sequence[MetricPoint] = ()
    ) -> None:
        """Store the report's files and the verdict, and end the runs of the arms and the study.

        Trials that still run are recorded as killed; ``start_trial`` sets them running again.
        """

    def close(self) -> None:
        """Return when everything is stored."""


@dataclass
class MemoryRun:
    """A run with all that was written to it."""

    id: str
    start: int
    """Milliseconds since the epoch."""
    end: int | None = None
    status: RunStatus = "RUNNING"
    tags: dict[str, str] = field(default_factory=dict)
    params: dict[str, str] = field(default_factory=dict)
    points: list[MetricPoint] = field(default_factory=list)
    datasets: list[Dataset] = field(default_factory=list)
    artifacts: dict[str, bytes] = field(default_factory=dict)


class MemoryStore:
    """Runs in a dict; outlives a tracker, as a database does."""

    def __init__(self) -> None:
        self.runs: dict[str, MemoryRun] = {}

    def connect(self) -> None:
        """See ``RunStore``."""

    def open(self) -> None:
        """See ``RunStore``."""

    def find(self, wanted: Mapping[str, str], *, running: bool = False) -> Iterable[Run]:
        """See ``RunStore``."""
        return [
            Run(run.id, run.status, dict(run.tags), dict(run.params))
            for run in self.runs.values()
            if wanted.items() <= run.tags.items() and (run.status == "RUNNING" or not running)
        ]

    def create(self, tags: Mapping[str, str], start: int) -> Run:
        """See ``RunStore``."""
        name = f"run-{len(self.runs)}"
        self.runs[name] = MemoryRun(name, start, tags=dict(tags))
        return Run(name, "RUNNING", dict(tags))

    def write(
        self,
        run: Run,
        points: Sequence[MetricPoint] = (),
        params: Mapping[str, str] | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> None:
        """See ``RunStore``."""
        stored = self.runs[run.id]
        # By text, because NaN is not equal to itself.
        there = {repr(point) for point in stored.points}
        stored.points += [point for point in points if repr(point) not in there]
        for key, value in (params or {}).items():
            if stored.params.setdefault(key, value) != value:
                raise ValueError(f"A parameter cannot change, but got {key} = {value!r}.")
        stored.tags.update(tags or {})

    def remove_tags(self, run: Run, names: Iterable[str]) -> None:
        """See ``RunStore``."""
        for name in names:
            del self.runs[run.id].tags[name]

    def add_dataset(self, run: Run, dataset: Dataset) -> None:
        """See ``RunStore``."""
        if dataset not in self.runs[run.id].datasets:
            self.runs[run.id].datasets.append(dataset)

    def add_file(self, run: Run, path: Path, folder: str | None = None) -> None:
        """See ``RunStore``."""
        name = f"{folder}/{path.name}" if folder else path.name
        self.runs[run.id].artifacts[name] = path.read_bytes()

    def add_text(self, run: Run, name: str, text: str) -> None:
        """See ``RunStore``."""
        self.runs[run.id].artifacts[name] = text.encode()

    def set_status(self, run: Run, status: RunStatus, end: int | None) -> None:
        """See ``RunStore``."""
        stored = self.runs[run.id]
        stored.status = status
        stored.end = stored.end if end is None else end

    def flush(self) -> None:
        """See ``RunStore``."""


class MemoryTracker(RunTracker):
    """A tracker for tests: what it recorded is in ``store.runs``.

    Args:
        study: The study's name.
        store: The runs of an earlier tracker, to play a process that starts again.
        identity: See ``RunTracker``.
    """

    def __init__(
        self, study: str, store: MemoryStore | None = None, identity: str | None = None
    ) -> None:
        self.store = store or MemoryStore()
        super().__init__(self.store, study, identity)
