"""What every tracker promises: the one in memory, MLflow with SQLite and with PostgreSQL."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy

from sweeper.analysis.server_costs import Share, charge
from sweeper.foundation.database_retry import Retry
from sweeper.foundation.databases import with_driver
from sweeper.records import EnqueuedSettings, Failure
from sweeper.records.study_record import StudyRecord
from sweeper.tracking.mapping import NOTE, PARENT, RUN_NAME, trial_tags
from sweeper.tracking.mlflow_store import MlflowStore
from sweeper.tracking.mlflow_tracker import MlflowTracker
from sweeper.tracking.points import MetricPoint
from sweeper.tracking.tracker import Tracker
from tests.support.engine_choices import engines_outcome
from tests.support.example_study import arm as arm_record
from tests.support.example_study import study, trial
from tests.support.memory_tracker import MemoryStore, MemoryTracker
from tests.support.pairs import diagnosis
from tests.support.postgres import QUOTED, Server
from tests.support.tracking_examples import (
    NOON,
    PASSWORD,
    Recorder,
    completed,
    failed,
    job_files,
    memory_place,
    mlflow_place,
    open_study,
    opened,
    rows,
    summary,
    trial_spec,
)


@pytest.fixture(params=["memory", "mlflow", "postgres"])
def place(request: pytest.FixtureRequest, tmp_path: Path, empty_database: Path) -> Recorder:
    if request.param == "memory":
        return memory_place()
    if request.param == "postgres":
        server: Server = request.getfixturevalue("postgres")
        template = request.getfixturevalue("empty_postgres")
        return mlflow_place(tmp_path, uri=with_driver(server.database(template)))
    return mlflow_place(tmp_path, empty_database)


def steps(place: Recorder, tmp_path: Path) -> list[Callable[[Tracker], None]]:
    files = job_files(tmp_path)
    report = tmp_path / "report.md"
    report.write_text("# gkd wins\n")
    records = tmp_path / "records.json.gz"
    records.write_bytes(b"\x1f\x8b")
    verdict = [MetricPoint("verdict/steps/gkd/sft/difference", 0.1, 0, int(NOON + 90) * 1000)]
    return [
        lambda tracker: tracker.log_data(summary()),
        lambda tracker: tracker.log_baseline("teacher", completed(0.97)),
        lambda tracker: tracker.log_baseline("starting_student", completed(0.36)),
        lambda tracker: tracker.log_pair(diagnosis()),
        lambda tracker: tracker.log_engines(engines_outcome()),
        lambda tracker: tracker.start_trial(trial_spec()),
        lambda tracker: tracker.log_progress(trial_spec(), rows()),
        lambda tracker: tracker.finish_trial(trial_spec(), completed(), files),
        lambda tracker: tracker.start_trial(trial_spec(1)),
        lambda tracker: tracker.finish_trial(trial_spec(1), failed(), files),
        lambda tracker: tracker.log_server_costs(served_study()),
        lambda tracker: (
            tracker.finish_study([report, records], "finished", verdict),
            tracker.close(),
        )[-1],
    ]


def served_study() -> StudyRecord:
    """The study's record in which the first trial pays for a server."""
    shared = charge(completed(), {"teacher": Share(3.0, 1.0)})
    return study([arm_record("gkd", [trial(0, shared), trial(1, failed())])])


def check_whole_study(place: Recorder) -> None:
    (study,) = place.by_kind("study")
    (arm,) = place.by_kind("arm")
    first, second = sorted(place.by_kind("trial"), key=lambda run: run.tags["sweeper.trial"])

    assert PARENT not in study.tags
    assert arm.tags[PARENT] == study.id
    assert first.tags[PARENT] == second.tags[PARENT] == arm.id
    assert [run.status for run in (study, arm, first, second)] == [
        "FINISHED",
        "FINISHED",
        "FINISHED",
        "FAILED",
    ]
    assert first.tags[RUN_NAME] == "gkd #0"
    assert first.tags["sweeper.state"] == "completed"
    assert first.tags["sweeper.git_revision"] == "0123456789abcdef+"
    assert first.tags["sweeper.version.torch"] == "2.13.0"
    assert second.tags["sweeper.failure_kind"] == "out_of_memory"
    assert second.tags["sweeper.failure"] == "8 GB were not enough"
    assert "Traceback" in second.tags[NOTE]
    assert first.end == (NOON + 40) * 1000

    assert study.datasets == first.datasets == second.datasets == ["train.jsonl"]
    assert study.values("teacher/selection") == [0.97]
    assert study.values("starting_student/four_digits") == [0.36]
    assert study.values("pair/student_answers/divergence") == [0.5]
    assert study.tags["sweeper.rollout_engine"] == "transformers"
    assert study.values("engines/transformers_tokens_per_second") == [1580.0]
    assert study.values("engines/vllm_tokens_per_second") == []
    assert sorted(point for point in first.points if point.key == "train/loss") == [
        MetricPoint("train/loss", 0.3, 10, int(NOON + 10) * 1000),
        MetricPoint("train/loss", 0.6, 5, int(NOON + 5) * 1000),
    ]
    assert len(first.values("train/grad_norm")) == 2
    assert first.values("seconds/rollout") == [0.25, 0.25]
    assert first.values("score/selection") == [0.75]
    assert first.values("score/selection_stderr") == [0.02]
    assert first.values("score/four_digits") == [0.75]
    assert first.values("cost/steps") == [200]
    assert first.values("cost/seconds_rollout") == [20.0]
    # The share of the teacher's server is known once the study ends.
    assert first.last("cost/device_seconds") == 35.5
    assert first.values("cost/served_device_seconds") == [4.0]
    assert first.values("cost/served_device_seconds_teacher") == [4.0]
    assert second.values("cost/served_device_seconds") == []
    assert second.values("score/selection") == []
    assert second.values("cost/device_seconds") == [31.5]

    assert set(first.artifacts) == {"spec.json", "log.txt", "documents.jsonl"}
    assert study.artifacts["report/report.md"] == b"# gkd wins\n"
    assert study.artifacts["report/records.json.gz"] == b"\x1f\x8b"
    expected = {"report/report.md", "report/records.json.gz", "study.yaml", "provenance.json"}
    assert set(study.artifacts) == expected
    assert study.values("verdict/steps/gkd/sft/difference") == [0.1]


def test_a_study_is_recorded_once_though_everything_is_called_twice(
    place: Recorder, tmp_path: Path
) -> None:
    tracker = opened(place)
    for step in steps(place, tmp_path):
        step(tracker)
        step(tracker)
    check_whole_study(place)


def test_a_process_that_is_killed_after_any_call_leaves_no_duplicates(
    place: Recorder, tmp_path: Path
) -> None:
    for step in steps(place, tmp_path):
        # A new tracker knows nothing that is not stored. The data is logged at every start.
        tracker = opened(place)
        tracker.log_data(summary())
        step(tracker)
    check_whole_study(place)


class Killed(BaseException):
    """The process ends here."""


def test_a_process_that_is_killed_within_any_call_leaves_no_duplicates(tmp_path: Path) -> None:
    place = memory_place()
    writes = ("create", "write", "add_dataset", "add_file", "add_text", "set_status")

    def run(allowed: int) -> None:
        tracker = place.make()
        assert isinstance(tracker, MemoryTracker)
        store = tracker.store
        left = allowed

        def dying(name: str) -> Callable[..., Any]:
            original = getattr(MemoryStore, name)

            def call(*arguments: Any) -> Any:
                nonlocal left
                if left == 0:
                    raise Killed
                left -= 1
                return original(store, *arguments)

            return call

        with pytest.MonkeyPatch.context() as patch:
            for name in writes:
                patch.setattr(store, name, dying(name), raising=True)
            open_study(tracker)
            tracker.open_arm("gkd", "gkd", 4, {"beta": 0.5}, {"lmbda": [0.0, 0.5, 1.0]})
            for step in steps(place, tmp_path):
                step(tracker)

    for allowed in range(1000):
        try:
            run(allowed)
            break
        except Killed:
            assert len(place.read()) <= 4
    assert allowed > 20
    check_whole_study(place)


def test_a_retried_trial_keeps_its_run(place: Recorder, tmp_path: Path) -> None:
    files = job_files(tmp_path)
    tracker = opened(place)
    tracker.start_trial(trial_spec(settings={"per_device_train_batch_size": 8}))
    tracker.finish_trial(trial_spec(settings={"per_device_train_batch_size": 8}), failed(), files)
    again = trial_spec(settings={"per_device_train_batch_size": 4}, attempt=2)
    tracker = opened(place)
    tracker.start_trial(again)

    (run,) = place.by_kind("trial")
    assert run.status == "RUNNING"
    assert run.tags["sweeper.attempt"] == "2"
    assert "sweeper.failure" not in run.tags
    assert "Traceback" not in run.tags[NOTE]
    assert run.params["training/per_device_train_batch_size"] == "8"
    assert run.tags["sweeper.changed"] == '{"training/per_device_train_batch_size": "4"}'

    tracker.finish_trial(again, completed(attempt=2), files)
    (run,) = place.by_kind("trial")
    assert (run.status, run.tags["sweeper.attempt"]) == ("FINISHED", "2")


def test_starting_an_ended_attempt_again_changes_nothing(place: Recorder, tmp_path: Path) -> None:
    opened(place).finish_trial(trial_spec(), completed(), job_files(tmp_path))
    opened(place).start_trial(trial_spec())
    (run,) = place.by_kind("trial")
    assert (run.status, run.tags["sweeper.state"]) == ("FINISHED", "completed")


def test_an_interrupted_study_is_killed_and_goes_on_in_the_same_runs(place: Recorder) -> None:
    tracker = opened(place)
    tracker.start_trial(trial_spec())
    tracker.finish_study([], "interrupted")
    assert {run.status for run in place.read()} == {"KILLED"}

    tracker = opened(place)
    tracker.start_trial(trial_spec())
    assert [run.status for run in place.read()] == ["RUNNING"] * 3
    assert {run.tags["sweeper.state"] for run in place.read()} == {"running"}


def test_a_larger_budget_is_taken_over(place: Recorder) -> None:
    opened(place)
    opened(place).open_arm("gkd", "gkd", 9, {"beta": 0.5}, {"lmbda": [0.0, 0.5, 1.0]})
    (arm,) = place.by_kind("arm")
    assert arm.tags["sweeper.budget"] == "9"
    assert arm.params["search/lmbda"] == "[0.0, 0.5, 1.0]"


def test_identity_tells_studies_of_one_name_apart(place: Recorder) -> None:
    opened(place, identity="first").start_trial(trial_spec())
    opened(place, identity="second").start_trial(trial_spec())
    opened(place, identity="first").start_trial(trial_spec())
    assert len(place.by_kind("trial")) == 2


def test_no_password_is_stored(place: Recorder, tmp_path: Path) -> None:
    tracker = opened(place)
    uri = f"postgresql://me:{PASSWORD}@db/mlflow"
    broken = failed(failure=Failure(kind="bug", message=f"no route to {uri}", details=uri))
    tracker.finish_trial(trial_spec(), broken, job_files(tmp_path))
    for run in place.read():
        stored = [*run.tags.values(), *run.params.values(), *map(str, run.artifacts.values())]
        assert not [text for text in stored if PASSWORD in text]
    assert any("me:***@db" in run.tags.get("sweeper.failure", "") for run in place.read())


def test_calls_out_of_order_are_refused(place: Recorder) -> None:
    with pytest.raises(RuntimeError, match="open_study must be the first call"):
        place.make().log_data(summary())
    tracker = opened(place)
    with pytest.raises(LookupError, match="start_trial must come before log_progress"):
        tracker.log_progress(trial_spec(), rows())
    with pytest.raises(LookupError, match="open_arm must come before the trials of 'sft'"):
        tracker.start_trial(trial_spec(arm="sft", method="sft"))


def test_trackers_are_light_to_import() -> None:
    code = (
        "import sys, sweeper.tracking.tracker, sweeper.tracking.mlflow_tracker, sweeper.tracking.ui"
        "\nprint([name for name in ('mlflow', 'sqlalchemy', 'torch') if name in sys.modules])"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"


def test_both_are_trackers() -> None:
    store = MlflowStore("", "", None)
    trackers: list[Tracker] = [MemoryTracker("digits"), MlflowTracker(store, "digits")]
    assert len(trackers) == 2  # mypy does the checking


@pytest.mark.slow
def test_a_server_that_is_away_at_any_call_loses_nothing(
    postgres: Server, empty_postgres: str, tmp_path: Path
) -> None:
    place = mlflow_place(tmp_path, uri=with_driver(postgres.database(empty_postgres)))
    retry, told = Retry(), []

    def tell(text: str) -> None:
        told.append(text)
        if "does not answer" in text:
            postgres.start()

    retry.tell = tell
    tracker = opened(place, retry=retry)
    waited = 0
    for step in steps(place, tmp_path):
        postgres.stop()
        waited += 1
        step(tracker)
    assert len(told) == 2 * waited
    assert all(PASSWORD not in text and QUOTED not in text for text in told)
    check_whole_study(place)


def test_a_run_whose_making_was_not_answered_is_made_once(
    tmp_path: Path, empty_database: Path
) -> None:
    place = mlflow_place(tmp_path, empty_database)
    tracker = opened(place)
    store = tracker._store
    assert isinstance(store, MlflowStore)
    client = store._connected
    lost: list[str] = []

    def make(*arguments: Any, **more: Any) -> Any:
        made = type(client).create_run(client, *arguments, **more)
        if not lost:
            lost.append("")
            raise sqlalchemy.exc.OperationalError("", {}, sqlite3.OperationalError("db is locked"))
        return made

    client.create_run = make
    tracker.start_trial(trial_spec())
    assert lost
    assert len(place.by_kind("trial")) == 1
    tracker.start_trial(trial_spec(1))
    assert len(place.by_kind("trial")) == 2


def test_given_settings_are_tagged_with_their_source() -> None:
    pilot = EnqueuedSettings(settings={}, study="pilot", arm="gkd", trial=4)
    for enqueued, tag in (
        (EnqueuedSettings(settings={"lmbda": 0.5}), "the study file"),
        (pilot, "pilot gkd #4"),
        (None, None),
    ):
        assert trial_tags(trial_spec(enqueued=enqueued)).get("sweeper.start_with") == tag
