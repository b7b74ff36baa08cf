"""The allocator of a job's process on a GPU, and the process that jobs are forked from."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from sweeper.execution.worker.gpu_memory import EXPANDABLE, allocator_settings, open_gpu_files
from sweeper.records import Resources, ServedModel

SERVER = ServedModel(url="http://127.0.0.1:1/v1", name="student", key_file="/nowhere/key")
CHOSEN = {"PYTORCH_CUDA_ALLOC_CONF": "max_split_size_mb:128"}


def place(device: str, **more: object) -> Resources:
    return Resources(directory="/nowhere", device=device, threads=1, **more)


@pytest.mark.parametrize(
    ("at", "given", "expected"),
    [
        (place("cuda:0"), {}, {"PYTORCH_ALLOC_CONF": EXPANDABLE}),
        (place("cuda:1", devices=("cuda:0", "cuda:1")), {}, {"PYTORCH_ALLOC_CONF": EXPANDABLE}),
        (place("cpu"), {}, {}),
        (place("mps"), {}, {}),
        (place("cuda:0"), CHOSEN, CHOSEN),
        (place("cuda:0"), {"PYTORCH_ALLOC_CONF": ""}, {"PYTORCH_ALLOC_CONF": ""}),
        (place("cuda:0", served_student=SERVER), {}, {}),
        (place("cuda", gpu_students={"cuda:0": SERVER}), {}, {}),
        (place("cuda:0", served_teacher=SERVER), {}, {"PYTORCH_ALLOC_CONF": EXPANDABLE}),
    ],
)
def test_segments_grow_unless_the_user_or_a_server_needs_others(
    at: Resources, given: dict[str, str], expected: dict[str, str]
) -> None:
    environment = dict(given)
    settings = allocator_settings(at, environment)
    assert environment == expected
    assert (settings is not None) == (environment != given)


@pytest.mark.slow
def test_torch_takes_the_settings_before_and_without_cuda() -> None:
    """In a process of its own, as they stay."""
    code = (
        "import torch\n"
        "setter = getattr(torch._C, '_accelerator_setAllocatorSettings', None)\n"
        f"(setter or torch.cuda.memory._set_allocator_settings)({EXPANDABLE!r})\n"
        "assert not torch.cuda.is_initialized()\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_open_files_of_gpus_are_found(tmp_path: Path) -> None:
    targets = ("/dev/nvidiactl", "/dev/nvidia0", "/dev/null", "socket:[1]", "/home/nvidia/x")
    for number, target in enumerate(targets):
        (tmp_path / str(number)).symlink_to(target)
    assert open_gpu_files(str(tmp_path)) == ["/dev/nvidia0", "/dev/nvidiactl"]
    assert open_gpu_files(str(tmp_path / "none")) == []


PROBE = """
import sys
touched = []
def watch(event, arguments):
    name = str(arguments[0]) if arguments else ""
    opens = event in ("open", "ctypes.dlopen")
    if opens and any(part in name for part in ("/dev/nvidia", "libcuda.so", "nvidia-ml")):
        touched.append((event, name))
sys.addaudithook(watch)
import torch
import torch._dynamo  # takes its own references
def refuse(*_, **__):
    raise AssertionError("CUDA was touched")
for name in ("_lazy_init", "init", "device_count", "current_device", "get_device_properties"):
    setattr(torch.cuda, name, refuse)
for name in ("_cuda_init", "_cuda_getDeviceCount"):
    setattr(torch._C, name, refuse)
from sweeper.execution.worker import preload
assert preload.failure is None, preload.failure
assert preload.warning is None, preload.warning
assert not torch.cuda.is_initialized() and not torch.cuda._is_in_bad_fork()
assert not touched, touched
"""


@pytest.mark.slow
def test_the_process_that_jobs_are_forked_from_touches_no_gpu() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROBE], capture_output=True, text=True, timeout=240, env=os.environ
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_a_library_that_initializes_cuda_there_is_reported() -> None:
    code = (
        "import torch\n"
        "torch.cuda.is_initialized = lambda: True\n"
        "from sweeper.execution.worker import preload\n"
        "assert 'initialized CUDA' in preload.failure, preload.failure\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
