"""When a device is set aside, when it is cleared, and which jobs try another."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from pathlib import Path

import pytest

from sweeper.foundation.errors import NoDeviceError
from sweeper.foundation.files import append_json_line
from sweeper.records import Failure, FailureKind, Outcome, TrialSpec
from sweeper.records.layout import JobPaths, StudyPaths
from sweeper.study import retries
from sweeper.study.budgets import summarize
from sweeper.study.faulty_devices import FaultyDevices, read_device_faults
from tests.support.trial_jobs import make_spec


class Recorder:
    """As much of an executor as is asked about devices."""

    def __init__(self, devices: Collection[str]) -> None:
        self.all = set(devices)
        self.aside: set[str] = set()

    def set_aside(self, devices: Collection[str]) -> None:
        self.aside = set(devices)

    def exhausted(self) -> bool:
        return self.all <= self.aside

    def free(self, avoid: Collection[str] = ()) -> int:
        return len(self.all - self.aside - set(avoid))


class Bench:
    def __init__(self, write_study: Callable[..., Path], folder: Path) -> None:
        self.executor = Recorder({"cuda:0", "cuda:1", "cuda:2"})
        self.paths = StudyPaths(folder / "runs", "tiny")
        self.paths.directory.mkdir(parents=True, exist_ok=True)
        self.devices = FaultyDevices(self.executor, self.paths.device_faults)  # type: ignore[arg-type]
        self._spec = make_spec(write_study())

    def job(self, number: int) -> TrialSpec:
        place = self._spec.place.model_copy(update={"directory": f"arms/sft/{number:04d}"})
        return self._spec.model_copy(update={"number": number, "place": place})

    def fail(
        self, number: int, kind: FailureKind, *devices: str, started: float | None = None
    ) -> list[str]:
        failure = Failure(kind=kind, message=f"fault of {number}", devices=devices)
        begun = time.time() if started is None else started
        return self.devices.note(self.job(number), failure, begun)


@pytest.fixture
def bench(write_study: Callable[..., Path], tmp_path: Path) -> Bench:
    return Bench(write_study, tmp_path)


Faults = list[tuple[int, FailureKind, tuple[str, ...]]]


@pytest.mark.parametrize(
    ("faults", "aside"),
    [
        # A fault of the device itself counts each time.
        ([(0, "faulty_device", ("cuda:0",))], set()),
        ([(0, "faulty_device", ("cuda:0",))] * 2, {"cuda:0"}),
        ([(0, "faulty_device", ("cuda:0",)), (1, "faulty_device", ("cuda:1",))], set()),
        # A driver that does not fit fails everything.
        ([(0, "driver", ("cuda:0",))], {"cuda:0"}),
        # What may be the job's own fault counts once a job...
        ([(0, "failed_kernel", ("cuda:0",))] * 3, set()),
        ([(0, "failed_kernel", ("cuda:0",)), (1, "failed_kernel", ("cuda:0",))], {"cuda:0"}),
        ([(0, "failed_kernel", ("cuda:0",)), (1, "faulty_device", ("cuda:0",))], {"cuda:0"}),
        # ... and not at all once it has failed as often as it may...
        (
            [(0, "failed_kernel", ("cuda:0",))] * 3 + [(1, "failed_kernel", ("cuda:0",))],
            set(),
        ),
        # ... or fails elsewhere, too.
        (
            [
                (0, "failed_kernel", ("cuda:0",)),
                (0, "failed_kernel", ("cuda:1",)),
                (1, "failed_kernel", ("cuda:0",)),
                (2, "failed_kernel", ("cuda:1",)),
            ],
            set(),
        ),
        # A connection is that of the whole group.
        (
            [
                (0, "communication", ("cuda:0", "cuda:1")),
                (1, "communication", ("cuda:0", "cuda:1")),
            ],
            {"cuda:0", "cuda:1"},
        ),
        (
            [
                (0, "communication", ("cuda:0", "cuda:1")),
                (1, "communication", ("cuda:1", "cuda:2")),
            ],
            {"cuda:1"},
        ),
        # Where it showed is not known.
        ([(0, "faulty_device", ())] * 3, set()),
    ],
)
def test_devices_are_set_aside_after_two_faults_of_their_own(
    bench: Bench, faults: Faults, aside: set[str]
) -> None:
    lines = [
        line for number, kind, devices in faults for line in bench.fail(number, kind, *devices)
    ]
    assert bench.executor.aside == aside
    assert len([line for line in lines if "is set aside" in line]) == len(aside)
    found = read_device_faults(bench.paths)
    assert [(f.kind, f.devices) for f in found] == [(kind, devices) for _, kind, devices in faults]
    assert {device for fault in found for device in fault.set_aside} == aside


def test_jobs_that_one_fault_ended_together_count_it_once(bench: Bench) -> None:
    begun = time.time() - 60
    for number in range(3):
        bench.fail(number, "faulty_device", "cuda:0", started=begun)
    assert bench.executor.aside == set()
    # That which started after it is another.
    bench.fail(0, "faulty_device", "cuda:0")
    assert bench.executor.aside == {"cuda:0"}


def test_a_device_is_used_again_once_a_job_was_to_blame(bench: Bench) -> None:
    bench.fail(0, "failed_kernel", "cuda:0")
    bench.fail(1, "failed_kernel", "cuda:0")
    assert bench.executor.aside == {"cuda:0"}
    [line] = bench.fail(0, "failed_kernel", "cuda:1")
    assert line == "cuda:0 is used again: sft #0 failed too often to blame the device"
    assert bench.executor.aside == set()
    assert read_device_faults(bench.paths)[-1].cleared == ("cuda:0", "cuda:1")


def test_a_job_avoids_the_devices_that_it_failed_on(bench: Bench) -> None:
    job, other = bench.job(0).place.directory, bench.job(1).place.directory
    assert bench.devices.avoided(job) == frozenset()
    bench.fail(0, "faulty_device", "cuda:0")
    bench.fail(0, "faulty_device", "cuda:1")
    assert bench.devices.avoided(job) == {"cuda:0", "cuda:1"}
    assert bench.devices.avoided(other) == frozenset()
    assert bench.devices.may_start(job)
    bench.executor.all.discard("cuda:2")
    assert not bench.devices.may_start(job)
    assert bench.devices.may_start(other)


def test_a_run_without_devices_ends_with_a_message_and_the_next_begins_anew(bench: Bench) -> None:
    bench.devices.check()
    for device in ("cuda:0", "cuda:1", "cuda:2"):
        bench.fail(0, "driver", device)
    with pytest.raises(NoDeviceError) as error:
        bench.devices.check()
    message = str(error.value)
    assert "cuda:0, cuda:1, cuda:2 were set aside" in message
    assert "The last: fault of 0. Nothing" in message
    assert "run the same command again to resume" in message
    assert error.value.exit_code == 1
    again = FaultyDevices(Recorder({"cuda:0"}), bench.paths.device_faults)  # type: ignore[arg-type]
    again.check()


def test_damaged_lines_of_the_log_are_passed_over(bench: Bench) -> None:
    bench.fail(0, "faulty_device", "cuda:0")
    append_json_line(bench.paths.device_faults, {"time": 1.0, "of": "a later version"})
    with bench.paths.device_faults.open("a") as file:
        file.write('{"time": 2.0, "jo')
    assert len(read_device_faults(bench.paths)) == 1


def outcome(kind: FailureKind, *devices: str) -> Outcome:
    failure = Failure(kind=kind, message="it failed", devices=devices)
    return Outcome(state="failed", failure=failure, started=0.0, finished=60.0)


@pytest.mark.parametrize(
    ("earlier", "now", "again"),
    [
        ([], outcome("faulty_device", "cuda:0"), True),
        ([outcome("faulty_device", "cuda:0")] * 9, outcome("faulty_device", "cuda:1"), True),
        ([outcome("driver", "cuda:0")] * 9, outcome("driver", "cuda:1"), True),
        ([], outcome("failed_kernel", "cuda:0"), True),
        ([outcome("failed_kernel", "cuda:0")], outcome("failed_kernel", "cuda:0"), True),
        ([outcome("failed_kernel", "cuda:0")] * 2, outcome("failed_kernel", "cuda:0"), False),
        ([outcome("failed_kernel", "cuda:0")], outcome("failed_kernel", "cuda:1"), False),
        ([outcome("faulty_device", "cuda:0")], outcome("failed_kernel", "cuda:1"), True),
        ([], outcome("communication", "cuda:0", "cuda:1"), True),
        (
            [outcome("communication", "cuda:0", "cuda:1")],
            outcome("communication", "cuda:1", "cuda:2"),
            True,
        ),
        (
            [outcome("communication", "cuda:0", "cuda:1")],
            outcome("communication", "cuda:2", "cuda:3"),
            False,
        ),
        ([], outcome("device_assert", "cuda:0"), False),
        ([], outcome("bug"), False),
        ([], outcome("out_of_memory"), False),
    ],
)
def test_which_failures_are_tried_elsewhere(
    tmp_path: Path, earlier: list[Outcome], now: Outcome, again: bool
) -> None:
    files = JobPaths(tmp_path / "0000")
    for number, before in enumerate(earlier, 1):
        kept = files.attempt(number)
        kept.directory.mkdir(parents=True)
        kept.outcome.write_text(before.model_dump_json())
    assert retries.runs_elsewhere(now, files) == again


@pytest.mark.parametrize(
    ("kind", "spent"),
    [("failed_kernel", 0.0), ("communication", 0.0), ("lost", 0.0), ("device_assert", 60.0)],
)
def test_no_budget_counts_what_no_parameters_caused(kind: FailureKind, spent: float) -> None:
    ended = outcome(kind)
    cost = ended.cost.model_copy(update={"device_seconds": 60.0})
    assert summarize(ended.model_copy(update={"cost": cost})).spent == spent
