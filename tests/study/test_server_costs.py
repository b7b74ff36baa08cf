"""What a study counts of its served models' servers: in costs, in budgets, and for the search.

Jobs are done by writing their files, one after the other; so is the record of the server.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna
import pytest

from sweeper.execution.executor import Spec
from sweeper.foundation.files import append_json_line, write_text_atomically
from sweeper.records import (
    ConfirmationRun,
    Failure,
    Outcome,
    Progress,
    ServerRecord,
    ServerStart,
    TrialSpec,
)
from sweeper.records.layout import JobPaths, StudyPaths
from sweeper.records.study_record import Plan, StudyRecord
from sweeper.reporting.json_output import study_json
from sweeper.reporting.report_data import ReportData
from sweeper.study.manifest import read_manifest
from sweeper.study.results import read_study
from tests.support.memory_tracker import MemoryStore, MemoryTracker
from tests.support.writing_executor import ARMS, STARTED, WritingExecutor, go_on, outcome_of

WriteStudy = Callable[..., Path]
TOOK = 10.0
"""Seconds of each job."""


@dataclass
class ServedExecutor(WritingExecutor):
    """Jobs of ten seconds in a row, while a teacher's server is up from 20 s before the first."""

    paths: StudyPaths = field(kw_only=True)
    device: str = "cuda:1"
    waits: dict[str, float] = field(default_factory=lambda: {"gkd": 4.0, "teacher": 2.0})
    """Seconds that jobs wait for the teacher: trials by arm, steps by name."""
    clock: float = STARTED

    def outcome_of(self, spec: Spec) -> Outcome:
        started, self.clock = self.clock, self.clock + TOOK
        self.record()
        outcome = outcome_of(spec)
        name = spec.arm if isinstance(spec, TrialSpec) else spec.step
        waited = {"teacher": self.waits[name]} if name in self.waits else {}
        seconds = {"student": 5.0, "teacher": 4.0, "evaluation": 1.0}
        cost = outcome.cost.model_copy(
            update={"device_seconds": TOOK, "served": waited, "seconds": seconds}
        )
        times = {"started": started, "finished": self.clock, "cost": cost, "device": "cuda:0"}
        return outcome.model_copy(update=times)

    def record(self) -> None:
        """Write that the server was up until now."""
        start = ServerStart(
            started=STARTED - 20, last_seen=self.clock, program="vllm 0", devices=(self.device,)
        )
        server = ServerRecord(role="teacher", model="large", starts=(start,))
        write_text_atomically(self.paths.server("teacher").record, server.model_dump_json())


def paths_of(file: Path) -> StudyPaths:
    return StudyPaths(file.parent / "runs", "tiny")


def read(file: Path) -> StudyRecord:
    manifest = read_manifest(paths_of(file))
    assert manifest is not None
    return read_study(paths_of(file), manifest)


def run(file: Path, **keys: Any) -> StudyRecord:
    executor = ServedExecutor(paths=paths_of(file), **keys)
    return go_on(file, MemoryTracker("tiny", MemoryStore()), executor)


def seconds(record: StudyRecord) -> dict[str, float]:
    """The device-seconds of everything that is shown."""
    found = {
        f"{arm.name} {trial.number}": trial.outcome.cost.device_seconds
        for arm in record.arms
        for trial in arm.trials
        if trial.outcome
    }
    assert record.teacher is not None and record.starting_student is not None
    found["teacher"] = record.teacher.cost.device_seconds
    found["student"] = record.starting_student.cost.device_seconds
    return found


def test_jobs_pay_for_the_teachers_server_by_how_long_they_waited(write_study: WriteStudy) -> None:
    record = run(write_study(arms=ARMS))
    # Six jobs of 10 s, and 20 s before them: 80 s of a GPU. Who asks it pays for its own 10 s; the
    # other 50 s are shared by waits of 4, 4 and 2 s.
    assert seconds(record) == pytest.approx(
        {"gkd 0": 40, "gkd 1": 40, "sft 0": 10, "teacher": 30, "student": 10}
    )
    [server] = record.servers
    assert server.cost is not None
    assert (server.cost.device_seconds, server.cost.idle, server.cost.unshared) == (80, 50, 0)
    [gkd, _] = record.arms
    assert gkd.trials[0].outcome is not None
    cost = gkd.trials[0].outcome.cost
    assert cost.servers == pytest.approx({"teacher": 30})
    assert cost.seconds["teacher_server"] == pytest.approx(10)
    assert cost.seconds["idle_servers"] == pytest.approx(20)
    assert gkd.trials[0].outcome.wall_seconds == TOOK


def test_a_server_on_the_trials_device_costs_what_they_leave(write_study: WriteStudy) -> None:
    record = run(write_study(arms=ARMS), device="cuda:0")
    assert seconds(record) == pytest.approx(
        {"gkd 0": 18, "gkd 1": 18, "sft 0": 10, "teacher": 14, "student": 10}
    )


def test_a_server_that_nobody_asked_costs_the_study_and_no_trial(write_study: WriteStudy) -> None:
    record = run(write_study(arms=ARMS), waits={})
    assert set(seconds(record).values()) == {TOOK}
    [server] = study_json(ReportData.of(record))["servers"]
    assert (server["device_seconds"], server["cost"]["unshared"]) == (80, 80)


def test_confirmation_runs_pay_too(write_study: WriteStudy) -> None:
    file = write_study(arms=ARMS)
    executor = ServedExecutor(paths=paths_of(file))
    go_on(file, MemoryTracker("tiny", MemoryStore()), executor)
    again = ConfirmationRun(arm="gkd", trial=0, seed=0, at="steps", max_steps=4)
    plan = Plan(suite_hash="h", declared=STARTED, finals={"gkd": (again,)}, current={"gkd": (0,)})
    write_text_atomically(paths_of(file).plan, plan.model_dump_json())
    files = paths_of(file).confirmation_run("gkd", 0)
    spec = paths_of(file).trial("gkd", 0).spec.read_text()
    write_text_atomically(files.spec, spec)
    # It has failed, and yet it waited.
    ended = executor.outcome_of(TrialSpec.model_validate_json(spec))
    failure = Failure(kind="bug", message="no")
    ended = ended.model_copy(update={"state": "failed", "failure": failure, "scores": None})
    write_text_atomically(files.outcome, ended.model_dump_json())
    [final] = read(file).arms[0].finals
    assert final.outcome is not None
    assert final.outcome.cost.seconds["teacher_server"] == pytest.approx(10)
    assert final.outcome.cost.device_seconds == pytest.approx(10 + 10 + 50 * 4 / 14)


def test_attempts_that_did_not_end_were_on_the_device(write_study: WriteStudy) -> None:
    file = write_study(arms=ARMS)
    run(file, device="cuda:0")
    trial = paths_of(file).trial("gkd", 0)
    write_text_atomically(
        trial.outcome,
        trial.outcome.read_text().replace('"attempt":1', '"attempt":2'),
    )
    # The server started 20 s before the first job; the lost attempt had 15 of these.
    earlier = trial.attempt(1)
    earlier.directory.mkdir(parents=True)
    for moment in (STARTED - 20, STARTED - 5):
        point = Progress(time=moment, phase="train")
        append_json_line(earlier.progress, point.model_dump(exclude_defaults=True))
    write_text_atomically(earlier.spec, json.dumps({"place": {"device": "cuda:0", "devices": []}}))
    assert read(file).servers[0].device_seconds == 5


@pytest.mark.parametrize(("waits", "trials"), [({}, 9), ({"gkd": 4.0, "teacher": 2.0}, 7)])
def test_a_device_budget_counts_shares(
    write_study: WriteStudy, waits: dict[str, float], trials: int
) -> None:
    # 200 s an arm. Seven trials take 70 s, and pay 117 s for a server that was up for 130 s.
    file = write_study(trials=9, budget={"device_hours": 400 / 3600}, arms=ARMS)
    record = run(file, waits=waits)
    assert len(record.arms[0].trials) == trials
    assert record.arms[0].stopped == ("device_hours" if waits else None)
    # What the first run counted, the next one does too.
    assert len(run(file, waits=waits).arms[0].trials) == trials


def test_the_search_learns_costs_with_the_share_while_the_server_is_used(
    write_study: WriteStudy,
) -> None:
    file = write_study(arms=ARMS, objectives=["score", "device_seconds"])
    run(file)
    storage = f"sqlite:///{paths_of(file).optuna}"
    [first, second] = optuna.load_study(study_name="tiny/gkd", storage=storage).trials
    assert [first.values[1], second.values[1]] == pytest.approx([20, 20])


def test_equal_device_seconds_count_what_grows_with_the_training(write_study: WriteStudy) -> None:
    [gkd, sft] = run(write_study(arms=ARMS)).arms
    costs = [arm.trials[0].outcome.cost for arm in (gkd, sft) if arm.trials[0].outcome]
    assert [cost.training_seconds() for cost in costs] == pytest.approx([9 + 9, 9])


def test_the_same_records_are_read_again(write_study: WriteStudy) -> None:
    file = write_study(arms=ARMS)
    assert run(file) == read(file) == read(file)
    outcome = json.loads(JobPaths(paths_of(file).trial("gkd", 0).directory).outcome.read_text())
    assert outcome["cost"]["device_seconds"] == TOOK
