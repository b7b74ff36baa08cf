"""Studies whose devices fail: real processes of the local executor, on GPUs in name only."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna
import pytest

from sweeper.config.loading import load_study
from sweeper.execution.local import LocalExecutor
from sweeper.foundation.errors import NoDeviceError, SweeperError
from sweeper.foundation.files import read_json_lines
from sweeper.records import TrialSpec
from sweeper.records.layout import StudyPaths
from sweeper.records.study_record import StudyRecord
from sweeper.study.collaborators import Collaborators, RunningStudy
from sweeper.study.coordinator import Coordinator
from sweeper.study.manifest import open_manifest
from tests.support import faulty_jobs
from tests.support.memory_tracker import MemoryStore, MemoryTracker

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

ECC = "CUDA error: uncorrectable ECC error encountered\nCUDA kernel errors might be asynchronously"
ILLEGAL = (
    "CUDA error: an illegal memory access was encountered\nSearch for `cudaErrorIllegalAddress'"
)
ASSERT = "CUDA error: device-side assert triggered\nCUDA kernel errors might be asynchronously"
OLD_DRIVER = "The NVIDIA driver on your system is too old (found version 11040). Please update your"
WATCHDOG = (
    "terminate called after throwing an instance of 'c10::DistBackendError'",
    "  what():  [PG 3 Rank 0] Process group watchdog thread terminated with exception: [Rank 0]"
    " Watchdog caught collective operation timeout: WorkNCCL(SeqNum=9141, OpType=ALLREDUCE)",
)


@dataclass
class Messages:
    """An observer that keeps what is said."""

    lines: list[str] = field(default_factory=list)

    def update(self, run: RunningStudy) -> None:
        pass

    def ended(self, spec: TrialSpec, outcome: object) -> None:
        pass

    def message(self, text: str) -> None:
        self.lines.append(text)

    def about(self, words: str) -> list[str]:
        return [line for line in self.lines if words in line]


@dataclass
class Bench:
    """A study and its devices."""

    study_file: Path
    devices: tuple[str, ...] = ("cuda:0", "cuda:1")
    store: MemoryStore = field(default_factory=MemoryStore)

    @property
    def paths(self) -> StudyPaths:
        return StudyPaths(self.study_file.parent / "runs", "tiny")

    def plan(self, *rules: dict[str, Any]) -> None:
        (self.study_file.parent / "plan.json").write_text(json.dumps(rules))

    def run(self, *overrides: str) -> tuple[StudyRecord, Messages]:
        """What a new process would do."""
        study = load_study(self.study_file, list(overrides))
        manifest = open_manifest(study, self.paths, ["sweeper", "run"], 1)
        executor = LocalExecutor(study.config.compute, self.devices, faulty_jobs.run)
        self.messages = Messages()
        with executor:
            collaborators = Collaborators(
                executor, MemoryTracker("tiny", self.store), self.messages
            )
            cache = self.study_file.parent / "cache"
            record = Coordinator(study, self.paths, manifest, cache, collaborators).run()
        return record, self.messages

    def gpus_of(self, job: str) -> list[str]:
        """The GPUs on which a job was done, in the order of its attempts."""
        rows, _ = read_json_lines(self.study_file.parent / "done.jsonl")
        return [row["gpu"] for row in rows if row["job"] == job]

    def states(self, arm: str = "sft") -> list[str]:
        storage = f"sqlite:///{self.paths.optuna}"
        return [
            t.state.name
            for t in optuna.load_study(study_name=f"tiny/{arm}", storage=storage).trials
        ]

    def attributes(self, arm: str = "sft") -> list[dict[str, Any]]:
        storage = f"sqlite:///{self.paths.optuna}"
        trials = optuna.load_study(study_name=f"tiny/{arm}", storage=storage).trials
        return [{**trial.user_attrs, **trial.system_attrs} for trial in trials]


def make_bench(write_study: Callable[..., Path], trials: int = 3, **changes: Any) -> Bench:
    arms = {"sft": {"search": {"learning_rate": {"type": "float", "low": 1e-4, "high": 1e-2}}}}
    compute = {"device": "cuda", "resources_per_trial": {"gpu": 1}, **changes.pop("compute", {})}
    values = {"trials": trials, "arms": arms, "compute": compute, "sampler": {"type": "random"}}
    return Bench(write_study(**{**values, **changes}))


def ends(record: StudyRecord) -> list[str]:
    [arm] = record.arms
    return [
        trial.outcome.failure.kind if trial.outcome and trial.outcome.failure else trial.state
        for trial in arm.trials
    ]


def test_a_trial_that_fails_through_its_device_completes_on_another(
    write_study: Callable[..., Path],
) -> None:
    bench = make_bench(write_study)
    bench.plan({"job": "sft 0", "attempts": [1], "text": ECC})
    record, messages = bench.run()
    assert ends(record) == ["completed"] * 3
    first, second = bench.gpus_of("sft 0")
    assert first != second
    [line] = messages.about("it runs again")
    assert line.startswith(
        f"sft #0 failed on cuda:{first} (while in phase 'load': CUDA error: uncorr"
    )
    assert not messages.about("set aside")
    # The lost attempt costs nothing, and the search learnt nothing from it.
    trial = record.arms[0].trials[0]
    assert trial.outcome is not None
    assert (trial.outcome.attempt, trial.outcome.earlier_seconds) == (2, 0.0)
    assert bench.states() == ["COMPLETE"] * 3
    [fault] = record.device_faults
    assert (fault.kind, fault.job, fault.devices) == ("faulty_device", "sft #0", (f"cuda:{first}",))


def test_a_device_that_fails_twice_gets_no_more_jobs_until_the_next_run(
    write_study: Callable[..., Path],
) -> None:
    bench = make_bench(write_study, trials=6)
    steps = ("data", "student", "teacher")
    # In the preparation it still works.
    bench.plan(*({"job": step, "seconds": 0} for step in steps), {"gpu": "0", "text": ECC})
    record, messages = bench.run()
    assert ends(record) == ["completed"] * 6
    rows, _ = read_json_lines(bench.study_file.parent / "done.jsonl")
    broken = [row["job"] for row in rows if row["gpu"] == "0" and row["job"] not in steps]
    assert len(broken) == 2
    [line] = messages.about("is set aside and gets no more jobs in this run")
    assert line.startswith(
        "cuda:0 is set aside and gets no more jobs in this run, after 2 faults in"
    )
    assert [fault.set_aside for fault in record.device_faults] == [(), ("cuda:0",)]
    # Repaired, it is used again.
    bench.plan()
    bench.run("trials=10")
    rows, _ = read_json_lines(bench.study_file.parent / "done.jsonl")
    assert {row["gpu"] for row in rows[-4:]} == {"0", "1"}


def test_a_study_without_devices_stops_and_resumes(write_study: Callable[..., Path]) -> None:
    bench = make_bench(write_study)
    bench.plan(
        *({"job": step, "seconds": 0} for step in ("data", "student", "teacher")), {"text": ECC}
    )
    with pytest.raises(
        NoDeviceError, match=r"No device is left .* cuda:0, cuda:1 were set aside"
    ) as stop:
        bench.run()
    assert stop.value.exit_code == 1
    assert "run the same command again" in str(stop.value)
    assert len(bench.messages.about("is set aside")) == 2
    bench.plan()
    record, _ = bench.run()
    assert ends(record) == ["completed"] * 3
    assert bench.states() == ["COMPLETE"] * 3
    assert sum(bool(fault.set_aside) for fault in record.device_faults) == 2


def test_a_trial_that_fails_on_both_devices_is_to_blame_itself(
    write_study: Callable[..., Path],
) -> None:
    bench = make_bench(write_study, trials=6)
    bench.plan(
        {"job": "sft 0", "text": ILLEGAL},
        {"job": "sft 2", "text": ILLEGAL},
        {"job": "sft 3", "text": ILLEGAL},
    )
    record, messages = bench.run()
    failed = "failed_kernel"
    assert ends(record) == [failed, "completed", failed, failed, "completed", "completed"]
    for number in (0, 2, 3):
        assert sorted(bench.gpus_of(f"sft {number}")) == ["0", "1"]
    outcome = record.arms[0].trials[0].outcome
    assert outcome is not None and outcome.failure is not None
    assert "CUDA_LAUNCH_BLOCKING=1" in outcome.failure.told()
    # Says nothing about the parameters: a failure, not a trial to keep away from.
    assert bench.states()[0] == "FAIL"
    assert not messages.about("No device")


def test_an_assertion_in_a_kernel_is_the_inputs_fault(write_study: Callable[..., Path]) -> None:
    bench = make_bench(write_study, trials=2)
    printed = [faulty_jobs.ASSERTION.format(thread) for thread in range(3)]
    bench.plan(
        {"job": "sft 0", "prints": printed, "text": ASSERT},
        # What a library says once the device is broken.
        {
            "job": "sft 1",
            "prints": printed,
            "text": "CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`",
        },
    )
    record, _ = bench.run()
    assert ends(record) == ["device_assert"] * 2
    assert len(bench.gpus_of("sft 0")) == 1
    outcome = record.arms[0].trials[0].outcome
    assert outcome is not None and outcome.failure is not None
    assert "srcIndex < srcSelectDimSize" in outcome.failure.message
    assert "CUDA_LAUNCH_BLOCKING=1" in outcome.failure.told()
    assert record.device_faults == ()


def test_a_driver_that_does_not_fit_stops_the_study_without_spending_trials(
    write_study: Callable[..., Path],
) -> None:
    bench = make_bench(write_study)
    bench.plan({"job": "data", "seconds": 0}, {"text": OLD_DRIVER})
    with pytest.raises(NoDeviceError, match="driver on your system is too old"):
        bench.run()
    bench.plan()
    record, _ = bench.run()
    assert ends(record) == ["completed"] * 3


@pytest.mark.parametrize("step", ["student", "teacher"])
def test_a_step_of_the_preparation_tries_another_device(
    write_study: Callable[..., Path], step: str
) -> None:
    bench = make_bench(write_study, trials=1)
    bench.plan({"job": step, "gpu": "0", "text": ECC}, {"job": step, "gpu": "1", "seconds": 0})
    # Where it comes to lie is not said: on the broken device or not.
    record, messages = bench.run()
    assert ends(record) == ["completed"]
    assert bench.gpus_of(step) in (["0", "1"], ["1"])
    assert len(messages.about(f"{step} failed on cuda:0")) == len(bench.gpus_of(step)) - 1


def test_a_step_that_fails_everywhere_ends_the_study_with_its_message(
    write_study: Callable[..., Path],
) -> None:
    bench = make_bench(write_study, trials=1)
    bench.plan({"job": "teacher", "text": ILLEGAL})
    with pytest.raises(SweeperError, match=r"The preparation \(teacher\) failed: .*illegal memory"):
        bench.run()
    assert sorted(bench.gpus_of("teacher")) == ["0", "1"]


def test_confirmation_runs_try_another_device(write_study: Callable[..., Path]) -> None:
    bench = make_bench(write_study, trials=1, confirm={"seeds": 2})
    bench.plan({"job": "final sft 0", "attempts": [1], "text": ECC})
    record, messages = bench.run()
    assert [run.state for run in record.arms[0].finals] == ["completed"] * 2
    assert len(set(bench.gpus_of("final sft 0"))) == 2
    assert messages.about("confirmation run sft #0 failed on cuda:")


@pytest.mark.parametrize(
    ("ending", "kind"),
    [
        ({"prints": WATCHDOG, "signal": int(signal.SIGABRT)}, "communication"),
        (
            {
                "prints": [
                    "Error an illegal memory access was encountered at line 118 in file /src/ops.cu"
                ],
                "code": 1,
            },
            "failed_kernel",
        ),
    ],
    ids=["aborted by a watchdog", "exit of bitsandbytes"],
)
def test_what_a_dying_process_printed_tells_its_end(
    write_study: Callable[..., Path], ending: dict[str, Any], kind: str
) -> None:
    bench = make_bench(write_study, trials=1)
    bench.plan({"job": "sft 0", "attempts": [1], **ending})
    record, messages = bench.run()
    assert ends(record) == ["completed"]
    assert len(set(bench.gpus_of("sft 0"))) == 2
    [fault] = record.device_faults
    assert fault.kind == kind
    assert len(messages.about("it runs again, on another device")) == 1


def test_a_process_that_is_killed_is_lost_as_ever(write_study: Callable[..., Path]) -> None:
    bench = make_bench(write_study, trials=1)
    bench.plan({"job": "sft 0", "attempts": [1], "prints": WATCHDOG, "signal": int(signal.SIGKILL)})
    record, messages = bench.run()
    assert ends(record) == ["completed"]
    assert record.device_faults == ()
    [line] = messages.about("was lost (its process was ended by SIGKILL")
    assert line.endswith("it runs again")


def test_a_study_that_was_killed_before_it_saw_the_fault_runs_the_trial_again(
    write_study: Callable[..., Path],
) -> None:
    bench = make_bench(write_study, trials=2)
    bench.plan()
    bench.run()
    [files] = [files for number, files in bench.paths.trials("sft") if number == 1]
    # As it would have been: an outcome that nobody has seen.
    outcome = json.loads(files.outcome.read_text())
    failure = {"kind": "faulty_device", "message": "ECC", "devices": ["cuda:0"]}
    changed = {**outcome, "state": "failed", "failure": failure, "scores": None}
    files.outcome.write_text(json.dumps(changed))
    files.recorded.unlink()
    record, _ = bench.run()
    assert ends(record) == ["completed"] * 2
    assert len(bench.gpus_of("sft 1")) == 2
