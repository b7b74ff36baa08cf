"""Records to track, and places to record them."""

from __future__ import annotations

import math
import shutil
import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sweeper.config.study import StudyConfig
from sweeper.records import (
    Cost,
    DataSummary,
    Failure,
    Outcome,
    Progress,
    Resources,
    Scores,
    StudyInputs,
    SuiteSpec,
    TaskScore,
    TrialSpec,
)
from sweeper.records.layout import JobPaths
from sweeper.records.study_record import Provenance
from sweeper.tracking.mlflow_store import MlflowStore
from sweeper.tracking.mlflow_tracker import MlflowTracker
from sweeper.tracking.points import MetricPoint
from sweeper.tracking.tracker import Tracker
from tests.support.memory_tracker import MemoryStore, MemoryTracker

NOON = 1_700_000_000.0
PASSWORD = "s3cr3t-Pa55"
STUDY_TEXT = f"study: digits\ntracking:\n  uri: postgresql://me:{PASSWORD}@db.example/mlflow\n"


@dataclass
class Seen:
    """A run as it is stored, whoever stores it."""

    status: str
    tags: dict[str, str]
    params: dict[str, str]
    points: list[MetricPoint]
    datasets: list[str]
    artifacts: dict[str, bytes]
    id: str = ""
    end: int | None = None

    def values(self, key: str) -> list[float]:
        return [point.value for point in self.points if point.key == key]

    def last(self, key: str) -> float:
        """What MLflow shows: the last of the values with the highest step."""
        points = [point for point in self.points if point.key == key]
        return max(points, key=lambda point: (point.step, point.timestamp)).value


@dataclass
class Recorder:
    """Somewhere to record: makes trackers, each one like a new process, and reads back."""

    make: Callable[..., MlflowTracker]
    read: Callable[[], list[Seen]]

    def by_kind(self, kind: str) -> list[Seen]:
        return [run for run in self.read() if run.tags["sweeper.kind"] == kind]


def study_config(**changes: Any) -> StudyConfig:
    return StudyConfig.model_validate(
        {
            "study": "digits",
            "teacher": {"model": "builtin/adder"},
            "student": {"model": "builtin/small"},
            "data": {
                "train": {
                    "path": "builtin/addition",
                    "columns": {"prompt": "prompt", "completion": "completion"},
                }
            },
            "arms": {
                "gkd": {"search": {"lmbda": {"type": "categorical", "choices": [0.0, 0.5, 1.0]}}},
                "sft": None,
            },
            "evaluation": {"selection": "addition"},
            "tracking": {"uri": f"postgresql://me:{PASSWORD}@db.example/mlflow"},
            **changes,
        }
    )


def provenance() -> Provenance:
    return Provenance(
        command=f"sweeper run study.yaml --set tracking.uri=postgresql://me:{PASSWORD}@db/mlflow",
        study_file="study.yaml",
        started=NOON,
        git_revision="0123456789abcdef+",
        versions={"torch": "2.13.0", "trl": "1.16.0"},
        hardware={"cpu": "2 cores"},
    )


def study_inputs(**changes: Any) -> StudyInputs:
    config = study_config()
    return StudyInputs(
        study="digits",
        seed=3,
        teacher=config.teacher,
        student=changes.get("student", config.student),
        warm_start=None,
        data=config.data,
        teacher_outputs=config.teacher_outputs,
        training=config.training,
        evaluation=config.evaluation,
        cache="/cache",
    )


def trial_spec(
    number: int = 0,
    arm: str = "gkd",
    method: str = "gkd",
    settings: dict[str, Any] | None = None,
    **changes: Any,
) -> TrialSpec:
    inputs = study_inputs(**({"student": changes.pop("student")} if "student" in changes else {}))
    return TrialSpec.model_validate(
        {
            "origin": inputs,
            "arm": arm,
            "method": method,
            "number": number,
            "seed": 11,
            "params": {"lmbda": 0.5} if method == "gkd" else {},
            "settings": settings or {},
            "suite": SuiteSpec.model_validate(
                {
                    "config": {"suite": "addition", "tasks": [{"task": "four_digits"}]},
                    "task_directories": (),
                    "content_hash": "feed",
                }
            ),
            "place": Resources(directory="/runs/digits/arms/gkd/0000", device="cpu", threads=1),
            **changes,
        }
    )


def completed(score: float = 0.75, **changes: Any) -> Outcome:
    task = TaskScore(
        task="four_digits",
        metric="exact_match",
        score=score,
        stderr=0.02,
        documents=400,
        higher_is_better=True,
        weight=1.0,
    )
    scores = Scores(
        suite="addition",
        suite_hash="feed",
        score=score,
        stderr=0.02,
        higher_is_better=True,
        tasks=(task,),
        seconds=2.0,
    )
    cost = Cost(
        steps=200,
        trained_tokens=9000,
        generated_tokens=4000,
        device_seconds=31.5,
        seconds={"rollout": 20.0, "evaluation": 2.0},
    )
    return Outcome.model_validate(
        {
            "state": "completed",
            "scores": scores,
            "cost": cost,
            "started": NOON,
            "finished": NOON + 40,
            "host": "machine",
            "device": "cpu",
            "versions": {"torch": "2.13.0"},
            "model_parameters": 112_000,
            **changes,
        }
    )


def failed(**changes: Any) -> Outcome:
    failure = Failure(kind="out_of_memory", message="8 GB were not enough", details="Traceback: …")
    return completed(**{"state": "failed", "failure": failure, "scores": None, **changes})


def rows() -> list[Progress]:
    return [
        Progress(
            time=NOON + step,
            phase="train",
            step=step,
            metrics={
                "loss": 3.0 / step,
                "on_policy_share": 0.5,
                "grad_norm": math.nan,
                "seconds_rollout": 0.25,
            },
        )
        for step in (5, 10)
    ]


def summary() -> DataSummary:
    return DataSummary(
        rows=200,
        used=198,
        fingerprint="ab" * 32,
        source="/data/train.jsonl",
        local=True,
        prompt_tokens=10.0,
        completion_tokens=30.0,
        chat=False,
    )


def job_files(tmp_path: Path) -> JobPaths:
    files = JobPaths(tmp_path / "job")
    files.directory.mkdir(exist_ok=True)
    files.spec.write_text("{}")
    files.log.write_text("it ran\n")
    files.documents.write_text('{"doc_id": 0}\n')
    return files


def memory_place() -> Recorder:
    store = MemoryStore()

    def read() -> list[Seen]:
        return [
            Seen(
                status=run.status,
                tags=run.tags,
                params=run.params,
                points=run.points,
                datasets=[dataset.name for dataset in run.datasets],
                artifacts=run.artifacts,
                id=run.id,
                end=run.end,
            )
            for run in store.runs.values()
        ]

    return Recorder(lambda **more: MemoryTracker("digits", store, **more), read)


def mlflow_place(
    folder: Path, empty_database: Path | None = None, uri: str | None = None
) -> Recorder:
    """MLflow with a copy of ``empty_database``, or at ``uri``."""
    from mlflow import MlflowClient

    if empty_database is not None:
        # Making the tables takes 1.7 s.
        shutil.copy(empty_database, folder / "mlflow.db")
    uri = uri or f"sqlite:///{folder}/mlflow.db"

    def make(identity: str | None = None, **more: Any) -> MlflowTracker:
        store = MlflowStore(uri, "digits", str(folder / "artifacts"), **more)
        return MlflowTracker(store, "digits", identity)

    def read() -> list[Seen]:
        client = MlflowClient(tracking_uri=uri)
        experiment = client.get_experiment_by_name("digits")
        assert experiment is not None
        seen = []
        runs = client.search_runs(
            [experiment.experiment_id], order_by=["attributes.start_time ASC"], max_results=5000
        )
        for found in runs:
            assert found.inputs is not None
            root = folder / "artifacts" / found.info.run_id / "artifacts"
            points = [
                MetricPoint(point.key, point.value, point.step, point.timestamp)
                for key in found.data.metrics
                for point in client.get_metric_history(found.info.run_id, key)
            ]
            seen.append(
                Seen(
                    status=found.info.status,
                    tags=found.data.tags,
                    params=found.data.params,
                    points=points,
                    datasets=[given.dataset.name for given in found.inputs.dataset_inputs],
                    artifacts={
                        str(path.relative_to(root)): path.read_bytes()
                        for path in root.rglob("*")
                        if path.is_file()
                    },
                    id=found.info.run_id,
                    end=found.info.end_time,
                )
            )
        return seen

    return Recorder(make, read)


def open_study(tracker: Tracker) -> None:
    tracker.open_study(study_inputs(), ("gkd", "sft"), "tpe", provenance(), STUDY_TEXT)


def opened(place: Recorder, **more: Any) -> MlflowTracker:
    tracker = place.make(**more)
    open_study(tracker)
    tracker.open_arm("gkd", "gkd", 4, {"beta": 0.5}, {"lmbda": [0.0, 0.5, 1.0]})
    return tracker


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
        assert isinstance(port, int)
        return port
