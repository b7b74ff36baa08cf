"""Errors of a broken device: found wherever they hide, and written down without asking it again."""

from __future__ import annotations

import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from sweeper.execution.worker import choose_engine, process
from sweeper.execution.worker import run as boundary
from sweeper.execution.worker.device_faults import device_fault
from sweeper.execution.worker.process import DeviceShare
from sweeper.foundation.errors import BadInputError
from sweeper.records import Outcome, TrialSpec
from sweeper.records.layout import JobPaths
from tests.support.faulty_jobs import ASSERTION
from tests.support.trial_jobs import make_spec

ECC = "CUDA error: uncorrectable ECC error encountered"
ILLEGAL = "CUDA error: an illegal memory access was encountered"
ASSERT = "CUDA error: device-side assert triggered"
NCCL = "NCCL error in: NCCLUtils.cpp:93, remote process exited or there was a network error"


def accelerator(code: int, text: str = "CUDA error") -> torch.AcceleratorError:
    error = torch.AcceleratorError(text)
    error.error_code = code
    return error


def caused(error: Exception, cause: Exception | None) -> Exception:
    try:
        raise error from cause
    except Exception as caught:
        return caught


def during(first: Exception, second: Exception) -> Exception:
    """An error in the handling of another."""
    try:
        try:
            raise first
        except Exception:
            raise second  # noqa: B904
    except Exception as caught:
        return caught


def of_ray(cause: Exception, dual: bool) -> Exception:
    exceptions = pytest.importorskip("ray.exceptions")
    error = exceptions.RayTaskError("step", f"Traceback of {cause}", cause)
    found: Exception = error.as_instanceof_cause() if dual else error
    return found


@pytest.mark.parametrize(
    ("make", "kind"),
    [
        (lambda: RuntimeError(ECC), "faulty_device"),
        (lambda: torch.distributed.DistBackendError(NCCL), "communication"),
        (lambda: accelerator(214), "faulty_device"),
        (lambda: accelerator(719), "failed_kernel"),
        (lambda: accelerator(710, ""), "device_assert"),
        (lambda: caused(ValueError("the step failed"), RuntimeError(ECC)), "faulty_device"),
        (
            lambda: caused(BadInputError("the model cannot be read"), RuntimeError(ECC)),
            "faulty_device",
        ),
        (lambda: during(RuntimeError(ILLEGAL), KeyError("cleaning up")), "failed_kernel"),
        (
            lambda: ExceptionGroup("in threads", [ValueError("x"), RuntimeError(ILLEGAL)]),
            "failed_kernel",
        ),
        (lambda: of_ray(RuntimeError(ILLEGAL), dual=False), "failed_kernel"),
        (lambda: of_ray(RuntimeError(ECC), dual=True), "faulty_device"),
        # The assertion broke the connection, not the other way round.
        (lambda: during(RuntimeError(NCCL), RuntimeError(ASSERT)), "device_assert"),
        (lambda: during(RuntimeError(ASSERT), RuntimeError(NCCL)), "device_assert"),
        (lambda: during(RuntimeError(ILLEGAL), RuntimeError(ECC)), "faulty_device"),
    ],
)
def test_a_fault_is_found_in_the_error_and_in_what_led_to_it(
    make: Callable[[], Exception], kind: str
) -> None:
    fault = device_fault(make())
    assert fault is not None
    assert fault.kind == kind


@pytest.mark.parametrize(
    "make",
    [
        lambda: ValueError(f"the data's row 3 holds the text {ECC!r}"),
        lambda: KeyError(ILLEGAL),
        lambda: OSError(5, ASSERT),
        lambda: torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB"),
        lambda: accelerator(2, "CUDA error: out of memory"),
        lambda: RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate`"),
        lambda: caused(RuntimeError("something else"), None),
        lambda: of_ray(ValueError(ECC), dual=True),
        lambda: None,
    ],
)
def test_what_quotes_a_fault_or_is_another_is_none(make: Callable[[], Exception | None]) -> None:
    assert device_fault(make()) is None


@pytest.fixture
def spec(write_study: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> Iterator[TrialSpec]:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2,3")
    found = make_spec(write_study())
    yield found
    boundary._kept.clear()


def on_gpu(spec: TrialSpec, *devices: str, rank: int = 0) -> TrialSpec:
    several = devices if len(devices) > 1 else ()
    changes = {"device": devices[rank], "devices": several, "rank": rank}
    return spec.model_copy(update={"place": spec.place.model_copy(update=changes)})


def end(
    spec: TrialSpec,
    patch: pytest.MonkeyPatch,
    act: Callable[[], Any],
    share: DeviceShare = process.WHOLE,
) -> Outcome:
    """How a job's process records what it did."""
    patch.setattr(boundary, "_run_step", lambda spec, reporter: act())
    return process._run_here(spec, share, None)


def fail(text: str) -> None:
    raise RuntimeError(text)


def break_cuda(patch: pytest.MonkeyPatch) -> None:
    """After a sticky error every call of CUDA raises it again."""
    patch.setattr(torch.cuda, "is_available", lambda: fail(ILLEGAL))
    for name, value in vars(torch.cuda).items():
        if isinstance(value, types.FunctionType) and not name.startswith("_"):
            patch.setattr(torch.cuda, name, lambda *_, **__: fail(ILLEGAL))


@pytest.mark.parametrize("text", [ECC, ILLEGAL, ASSERT, NCCL])
def test_the_outcome_of_a_broken_device_is_written_without_asking_it(
    spec: TrialSpec, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    def act() -> None:
        break_cuda(monkeypatch)
        fail(text)

    outcome = end(on_gpu(spec, "cuda:1"), monkeypatch, act)
    assert outcome.state == "failed"
    assert outcome.failure is not None
    assert outcome.failure.kind in (
        "faulty_device",
        "failed_kernel",
        "device_assert",
        "communication",
    )
    assert outcome.failure.devices == ("cuda:1",)
    assert outcome.failure.remedies
    assert outcome.peak_bytes is None
    assert boundary._kept, "the error keeps the tensors, whose end would be a call of CUDA"
    with pytest.raises(RuntimeError, match="illegal memory"):
        torch.cuda.max_memory_reserved()


def test_a_device_that_is_gone_before_the_job_begins_is_an_outcome_too(
    spec: TrialSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = "No CUDA GPUs are available"
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: fail(gone))
    outcome = end(on_gpu(spec, "cuda:0"), monkeypatch, lambda: {}, DeviceShare(gpu=0.5))
    assert outcome.failure is not None
    assert (outcome.failure.kind, outcome.failure.devices) == ("faulty_device", ("cuda:0",))
    assert gone in outcome.failure.message


@pytest.mark.parametrize(
    ("text", "devices"),
    [(ECC, ("cuda:3",)), (ILLEGAL, ("cuda:3",)), (NCCL, ("cuda:2", "cuda:3"))],
)
def test_of_several_devices_that_of_the_process_is_named_unless_it_was_their_connection(
    spec: TrialSpec, monkeypatch: pytest.MonkeyPatch, text: str, devices: tuple[str, ...]
) -> None:
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    placed = on_gpu(spec, "cuda:2", "cuda:3", rank=1)
    outcome = end(placed, monkeypatch, lambda: fail(text))
    assert outcome.failure is not None
    assert outcome.failure.devices == devices


def test_a_nodes_device_is_named_with_its_node(
    spec: TrialSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: "worker1")
    placed = on_gpu(spec, "cuda:0")
    placed = placed.model_copy(
        update={"place": placed.place.model_copy(update={"node": "ab12cd34ef"})}
    )
    outcome = end(placed, monkeypatch, lambda: fail(ECC), DeviceShare(visible="5"))
    assert outcome.failure is not None
    assert outcome.failure.devices == ("worker1-ab12cd34 (GPU 5)",)


@pytest.mark.parametrize(
    ("printed", "raised", "kind"),
    [
        (ASSERTION.format(7), ASSERT, "device_assert"),
        # What a library says once the device is broken; it is no want of memory.
        (
            ASSERTION.format(7),
            "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
            "device_assert",
        ),
        (
            "TensorCompare.cu:110: _assert_async_cuda_kernel: block: [0,0,0], thread: [0,0,0]"
            " Assertion `probability tensor contains either `inf`, `nan` or element < 0` failed.",
            ASSERT,
            "diverged",
        ),
        (ASSERTION.format(7), "an error of the data", "bug"),
        ("nothing of interest", "CUDA out of memory. Tried to allocate 2 GiB", "out_of_memory"),
    ],
)
def test_the_assertion_that_failed_is_read_from_the_log(
    spec: TrialSpec, monkeypatch: pytest.MonkeyPatch, printed: str, raised: str, kind: str
) -> None:
    JobPaths(Path(spec.place.directory)).log.write_text(f"Loading\n{printed}\n")
    outcome = end(on_gpu(spec, "cuda:0"), monkeypatch, lambda: fail(raised))
    assert outcome.failure is not None
    assert outcome.failure.kind == kind
    if kind == "device_assert":
        assert "srcIndex < srcSelectDimSize" in outcome.failure.message
        assert any("CUDA_LAUNCH_BLOCKING=1" in remedy for remedy in outcome.failure.remedies)


@pytest.mark.parametrize("text", ["No CUDA GPUs are available", ECC, ILLEGAL])
def test_a_job_on_the_cpu_has_no_device_that_could_fail(
    spec: TrialSpec, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    outcome = end(spec, monkeypatch, lambda: fail(text))
    assert outcome.failure is not None
    assert (outcome.failure.kind, outcome.failure.devices) == ("bug", ())
    assert outcome.peak_bytes


def test_a_device_that_fails_in_the_test_of_an_engine_ends_the_test(
    spec: TrialSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The engines after it would be tested on a broken device."""
    step: Any = types.SimpleNamespace(
        place=spec.place, origin=spec.origin, engines=types.SimpleNamespace(settings=spec.settings)
    )
    monkeypatch.setattr(choose_engine, "engine_of", lambda *_: None)
    monkeypatch.setattr(choose_engine, "release_memory", lambda: None)
    monkeypatch.setattr(choose_engine, "run_engine", lambda *_, **__: fail(ILLEGAL))
    window: Any = None
    found = choose_engine._test(step, step.engines, "sweeper", window)
    assert found.problem == f"it failed: {ILLEGAL}", "a CPU has nothing that could break"
    step.place = on_gpu(spec, "cuda:0").place
    with pytest.raises(RuntimeError, match="illegal memory"):
        choose_engine._test(step, step.engines, "sweeper", window)
    try:
        fail(ILLEGAL)
    except RuntimeError as error:
        failure = boundary.failure_of(error, "sample by sweeper", on_gpu(spec, "cuda:0"))
    assert failure.remedies[0] == "rollouts: {engine: …} with another engine"
