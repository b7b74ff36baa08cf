"""What is said of a process that ended without an outcome, on a machine with a driver."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from sweeper.execution.deaths import fault_of_death
from sweeper.execution.devices import driver_answer
from sweeper.execution.worker.process import WHOLE, DeviceShare
from sweeper.records import TrialSpec
from sweeper.records.layout import JobPaths
from tests.support.trial_jobs import make_spec

LOST = (
    "Unable to determine the device handle for GPU 0000:02:00.0: GPU is lost.  Reboot the system to"
    " recover this GPU"
)
MISMATCH = "Failed to initialize NVML: Driver/library version mismatch"
WATCHDOG = (
    "[rank0]:[E321 02:07:08.408271257 ProcessGroupNCCL.cpp:607] [Rank 0] Watchdog caught collective"
    " operation timeout: WorkNCCL(SeqNum=1580, OpType=ALLREDUCE)"
)
ABORTED = "terminate called after throwing an instance of 'c10::Error'\n  what():  CUDA error: {}"


@pytest.fixture
def driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Put a driver into the path that reaches all GPUs but those given, by number."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)

    def install(lost: Sequence[str] = (), says: str = LOST, code: int = 15) -> None:
        program = folder / "nvidia-smi"
        cases = "|".join(lost) or "none"
        program.write_text(
            '#!/bin/sh\n[ "$1" = -i ] || exit 2\n'
            f'case "$2" in {cases}) echo "{says}"; exit {code};;\n'
            '*) echo "NVIDIA H100 80GB HBM3";; esac\n'
        )
        program.chmod(0o755)

    return install


@pytest.fixture
def spec(write_study: Callable[..., Path]) -> TrialSpec:
    return make_spec(write_study())


def on(spec: TrialSpec, *devices: str, log: str = "") -> TrialSpec:
    JobPaths(Path(spec.place.directory)).log.write_text(log)
    changes = {"device": devices[0], "devices": devices if len(devices) > 1 else ()}
    return spec.model_copy(update={"place": spec.place.model_copy(update=changes)})


def test_the_driver_is_asked_about_one_gpu(
    driver: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    driver(lost=["1"])
    assert driver_answer("0") == ""
    assert driver_answer("1") == LOST
    assert driver_answer("MIG-41b3") is None
    monkeypatch.setenv("PATH", "/nowhere")
    assert driver_answer("0") is None


def test_nothing_is_asked_about_a_job_on_the_cpu(
    driver: Callable[..., None], spec: TrialSpec
) -> None:
    driver(lost=["0", "1"])
    placed = on(spec, "cpu", log=WATCHDOG)
    assert fault_of_death(placed, WHOLE, -signal.SIGABRT, "ended") == ("ended", None)


@pytest.mark.parametrize("code", [-signal.SIGKILL, -signal.SIGABRT, -signal.SIGSEGV, 1])
def test_a_device_that_the_driver_does_not_reach_is_faulty(
    driver: Callable[..., None], spec: TrialSpec, code: int
) -> None:
    driver(lost=["2"])
    reason, fault = fault_of_death(on(spec, "cuda:1", "cuda:2"), WHOLE, code, "ended")
    assert fault is not None
    assert (fault.kind, fault.devices) == ("faulty_device", ("cuda:2",))
    assert fault.message == reason == f"ended; of cuda:2 nvidia-smi says: {LOST}"
    assert fault.remedies


def test_a_driver_that_does_not_answer_for_itself_is_to_blame(
    driver: Callable[..., None], spec: TrialSpec
) -> None:
    driver(lost=["0"], says=MISMATCH, code=18)
    _, fault = fault_of_death(on(spec, "cuda:0"), WHOLE, -signal.SIGKILL, "ended")
    assert fault is not None
    assert fault.kind == "driver"


def test_the_gpu_is_the_one_that_the_coordinator_sees(
    driver: Callable[..., None], spec: TrialSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver(lost=["5"])
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    _, fault = fault_of_death(on(spec, "cuda:1"), WHOLE, -signal.SIGKILL, "ended")
    assert fault is not None
    assert fault.devices == ("cuda:1",)
    # Of a cluster's job, the one that the cluster gave it.
    monkeypatch.setattr("socket.gethostname", lambda: "worker1")
    given = DeviceShare(visible="5")
    _, fault = fault_of_death(on(spec, "cuda:0"), given, -signal.SIGKILL, "ended")
    assert fault is not None
    assert fault.devices == ("worker1 (GPU 5)",)


@pytest.mark.parametrize(
    ("log", "code", "kind", "devices"),
    [
        (WATCHDOG, -signal.SIGABRT, "communication", ("cuda:0", "cuda:1")),
        (
            f"Process 2 of 2 was ended by SIGABRT.\n{WATCHDOG}",
            -signal.SIGABRT,
            "communication",
            ("cuda:0", "cuda:1"),
        ),
        (
            ABORTED.format("misaligned address (insert_events at CUDACachingAllocator.cpp:564)"),
            -signal.SIGABRT,
            "failed_kernel",
            ("cuda:0", "cuda:1"),
        ),
        (
            ABORTED.format("misaligned address") + "\nProcess 2 of 2 was ended by SIGABRT.\n",
            -signal.SIGABRT,
            "failed_kernel",
            ("cuda:1",),
        ),
        (
            "Indexing.cu:1146: block: [0,0,0], thread: [7,0,0] Assertion `srcIndex <"
            " srcSelectDimSize` failed.\n" + ABORTED.format("device-side assert triggered"),
            -signal.SIGABRT,
            "device_assert",
            ("cuda:0", "cuda:1"),
        ),
        (
            "TensorCompare.cu:110: _assert_async_cuda_kernel: block: [0,0,0], thread: [0,0,0]"
            " Assertion `probability tensor contains either `inf`, `nan` or element < 0` failed.\n"
            + ABORTED.format("device-side assert triggered"),
            -signal.SIGABRT,
            "diverged",
            ("cuda:0", "cuda:1"),
        ),
        (
            "Error an illegal memory access was encountered at line 118 in file /csrc/ops.cu\n",
            1,
            "failed_kernel",
            ("cuda:0", "cuda:1"),
        ),
        # Killed from outside, whatever it had printed before.
        (WATCHDOG, -signal.SIGKILL, None, ()),
        (ABORTED.format("out of memory"), -signal.SIGABRT, None, ()),
        ("Traceback: ValueError: 3", 1, None, ()),
    ],
)
def test_what_an_aborted_process_printed_is_its_fault(
    driver: Callable[..., None],
    spec: TrialSpec,
    log: str,
    code: int,
    kind: str | None,
    devices: tuple[str, ...],
) -> None:
    driver()
    placed = on(spec, "cuda:0", "cuda:1", log=log)
    reason, fault = fault_of_death(placed, WHOLE, code, "its process ended")
    assert reason == "its process ended; nvidia-smi still reaches cuda:0, cuda:1"
    assert (fault.kind if fault else None) == kind
    assert (fault.devices if fault else ()) == devices
    assert fault is None or reason in fault.message


def test_secrets_in_what_it_printed_are_hidden(
    driver: Callable[..., None], spec: TrialSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver()
    monkeypatch.setenv("HF_TOKEN", "hf_abcdefghijklmnop")
    log = "CUDA error: unspecified launch failure at hf_abcdefghijklmnop"
    _, fault = fault_of_death(on(spec, "cuda:0", log=log), WHOLE, -signal.SIGABRT, "ended")
    assert fault is not None
    assert "abcdefgh" not in fault.message
    assert os.environ["HF_TOKEN"]
