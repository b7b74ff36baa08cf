"""What a job's process does to its environment before any library looks at it."""

from __future__ import annotations

import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

from sweeper.commands.check.memory_forecast import LIBRARIES
from sweeper.config.compute import ComputeConfig
from sweeper.execution.local import LocalExecutor
from sweeper.execution.worker.memory_fence import BESIDE_ALLOCATOR
from sweeper.execution.worker.process import _claim_device, _keep_to_share
from sweeper.foundation.errors import SweeperError


def claim_device(
    patch: pytest.MonkeyPatch, device: str, visible: str | None
) -> tuple[str, str | None]:
    """The device's name inside the job, and the GPUs that the job's libraries see."""
    if visible is None:
        patch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        patch.setenv("CUDA_VISIBLE_DEVICES", visible)
    return _claim_device([device]), os.environ.get("CUDA_VISIBLE_DEVICES")


@pytest.mark.parametrize(
    ("device", "visible", "seen"),
    [
        ("cuda:0", None, "0"),
        ("cuda:1", None, "1"),
        ("cuda:0", "3,5", "3"),
        ("cuda:1", "3,5", "5"),
        ("cuda:1", "GPU-8f1d,GPU-2c77", "GPU-2c77"),
        ("cuda:0", "MIG-41b3", "MIG-41b3"),
    ],
)
def test_a_job_sees_its_own_gpu_alone(
    monkeypatch: pytest.MonkeyPatch, device: str, visible: str | None, seen: str
) -> None:
    assert claim_device(monkeypatch, device, visible) == ("cuda:0", seen)


def test_each_process_of_a_job_sees_all_of_its_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    for rank in range(2):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5,6")
        assert _claim_device(["cuda:1", "cuda:2"], rank) == f"cuda:{rank}"
        assert os.environ["CUDA_VISIBLE_DEVICES"] == "5,6"


@pytest.mark.parametrize("visible", [None, "3,5"])
def test_a_job_on_the_cpu_sees_no_gpu(monkeypatch: pytest.MonkeyPatch, visible: str | None) -> None:
    assert claim_device(monkeypatch, "cpu", visible) == ("cpu", "")


@pytest.mark.parametrize("device", ["mps", "cuda"])
def test_other_devices_are_left_alone(monkeypatch: pytest.MonkeyPatch, device: str) -> None:
    assert claim_device(monkeypatch, device, "3,5") == (device, "3,5")


@pytest.mark.parametrize("device", ["cuda", "cuda:1"])
def test_a_gpu_that_torch_cannot_use_is_refused(
    monkeypatch: pytest.MonkeyPatch, device: str
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    with pytest.raises(SweeperError, match=f"of {device} there is none"):
        LocalExecutor(ComputeConfig(device=device))


@pytest.mark.parametrize(
    ("device", "share", "limit"),
    [("cuda:0", 1.0, None), ("cuda:0", 0.5, 0.44), ("cuda:3", 0.35, 0.29)],
)
def test_a_process_keeps_to_its_share_of_its_own_gpu(
    monkeypatch: pytest.MonkeyPatch, device: str, share: float, limit: float | None
) -> None:
    """Of ten GiB, of which each process has 0.6 beside what torch allocates, as forecasts count."""
    assert LIBRARIES["cuda"] == BESIDE_ALLOCATOR == 0.6 * 2**30
    limits: list[tuple[float, str]] = []
    monkeypatch.setattr(
        torch.cuda, "get_device_properties", lambda name: SimpleNamespace(total_memory=10 * 2**30)
    )
    monkeypatch.setattr(
        torch.cuda,
        "set_per_process_memory_fraction",
        lambda fraction, name: limits.append((fraction, name)),
    )
    _keep_to_share(device, share)
    assert limits == ([] if limit is None else [(pytest.approx(limit), device)])


@pytest.mark.slow
def test_libraries_send_no_usage_statistics() -> None:
    code = (
        "from sweeper.execution.worker import preload\n"
        "from huggingface_hub import constants\n"
        "assert preload.failure is None, preload.failure\n"
        "assert constants.HF_HUB_DISABLE_TELEMETRY\n"
    )
    names = ("HF_HUB_DISABLE_TELEMETRY", "DISABLE_TELEMETRY", "DO_NOT_TRACK")
    environment = {name: value for name, value in os.environ.items() if name not in names}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr
