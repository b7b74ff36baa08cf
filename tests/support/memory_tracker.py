"""A tracker that keeps its runs in memory; it passes the tests of the tracker's contract."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from sweeper.tracking.mapping import Dataset
from sweeper.tracking.mlflow_store import MlflowStore, Run, RunStatus
from sweeper.tracking.mlflow_tracker import MlflowTracker
from sweeper.tracking.points import MetricPoint


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


class MemoryStore(MlflowStore):
    """Runs in a dict; outlives a tracker, as a database does."""

    def __init__(self) -> None:
        super().__init__("", "", None)
        self.runs: dict[str, MemoryRun] = {}

    def connect(self) -> None:
        pass

    def open(self) -> None:
        pass

    def find(self, wanted: Mapping[str, str], *, running: bool = False) -> Iterable[Run]:
        return [
            Run(run.id, run.status, dict(run.tags), dict(run.params))
            for run in self.runs.values()
            if wanted.items() <= run.tags.items() and (run.status == "RUNNING" or not running)
        ]

    def create(self, tags: Mapping[str, str], start: int) -> Run:
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
        stored = self.runs[run.id]
        # By text, because NaN is not equal to itself.
        there = {repr(point) for point in stored.points}
        stored.points += [point for point in points if repr(point) not in there]
        for key, value in (params or {}).items():
            if stored.params.setdefault(key, value) != value:
                raise ValueError(f"A parameter cannot change, but got {key} = {value!r}.")
        stored.tags.update(tags or {})

    def remove_tags(self, run: Run, names: Iterable[str]) -> None:
        for name in names:
            del self.runs[run.id].tags[name]

    def add_dataset(self, run: Run, dataset: Dataset) -> None:
        if dataset not in self.runs[run.id].datasets:
            self.runs[run.id].datasets.append(dataset)

    def add_file(self, run: Run, path: Path, folder: str | None = None) -> None:
        name = f"{folder}/{path.name}" if folder else path.name
        self.runs[run.id].artifacts[name] = path.read_bytes()

    def add_text(self, run: Run, name: str, text: str) -> None:
        self.runs[run.id].artifacts[name] = text.encode()

    def set_status(self, run: Run, status: RunStatus, end: int | None) -> None:
        stored = self.runs[run.id]
        stored.status = status
        stored.end = stored.end if end is None else end


class MemoryTracker(MlflowTracker):
    """The tracker on runs in memory: what it recorded is in ``store.runs``.

    Args:
        study: The study's name.
        store: The runs of an earlier tracker, to play a process that starts again.
        identity: Tells apart studies of one name.
    """

    def __init__(
        self, study: str, store: MemoryStore | None = None, identity: str | None = None
    ) -> None:
        self.store = store or MemoryStore()
        super().__init__(self.store, study, identity)
