"""The devices of a machine and their memory, found without loading torch."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from importlib import metadata
from itertools import takewhile, zip_longest
from pathlib import Path

from sweeper.config.device_defaults import CPU, FIRST_WITH_BFLOAT16, DeviceKind
from sweeper.foundation.errors import SweeperError


def find_devices(wanted: str) -> list[str]:
    """Return the devices to give out in turn.

    Raises:
        SweeperError: A GPU is wanted, and torch can use none.
    """
    if wanted.startswith("cuda"):
        found = _gpus()
        if not found or wanted not in ("cuda", *found):
            raise SweeperError(
                f"compute.device: expected a GPU, but of {wanted} there is none that torch can use"
                f" (found {', '.join(found) or 'no GPU'})."
            )
        return found if wanted == "cuda" else [wanted]
    if wanted != "auto":
        return [wanted]
    if sys.platform == "darwin" and platform.machine() == "arm64":
        return ["mps"]
    return _gpus() or ["cpu"]


def main_memory(groups: Path = Path("/sys/fs/cgroup")) -> int:
    """Return the bytes of main memory that this machine, or its container, has.

    Args:
        groups: Folder in which Linux shows the limits of the container.
    """
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    # The second is where version 1 of the control groups has it.
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        try:
            limit = int((groups / name).read_text(encoding="ascii"))
        except (OSError, ValueError):  # there is none: "max"
            continue
        if limit > 0:
            total = min(total, limit)
    return total


def gpu_memory() -> dict[str, int]:
    """Return the bytes of each GPU that torch may use, by its name."""
    sizes = _of_gpus("memory.total").items()
    return {name: int(size) * 2**20 for name, size in sizes if size.isdigit()}


def device_kinds(devices: Sequence[str]) -> list[DeviceKind]:
    """Return the kinds of ``devices``, each once."""
    kinds: dict[DeviceKind, None] = {}
    names, capabilities = {}, {}
    if any(device.startswith("cuda") for device in devices):
        names, capabilities = _of_gpus("name"), _of_gpus("compute_cap")
    for device in devices:
        if device.startswith("cuda"):
            capability = _number(capabilities.get(device, ""))
            kinds[DeviceKind("cuda", names.get(device, "GPU"), capability)] = None
        else:
            kinds[DeviceKind("mps", "MPS") if device == "mps" else CPU] = None
    return list(kinds)


def all_gpu_kinds() -> list[DeviceKind]:
    """Return the kinds of all GPUs of this machine, whatever ``CUDA_VISIBLE_DEVICES`` hides."""
    capabilities = _ask("compute_cap")
    return list(
        dict.fromkeys(
            DeviceKind("cuda", name, _number(capability))
            for name, capability in zip_longest(_ask("name"), capabilities, fillvalue="")
        )
    )


def driver_answer(gpu: str) -> str | None:
    """Return what ``nvidia-smi`` says of a GPU that it cannot reach; empty if it reaches it.

    None if that cannot be asked: there is no driver, it does not answer in time, or the GPU is an
    instance of one (MIG).

    Args:
        gpu: Number or name of the GPU, as in ``CUDA_VISIBLE_DEVICES``.
    """
    if gpu.startswith("MIG"):
        return None
    try:
        answer = subprocess.run(
            ["nvidia-smi", "-i", gpu, "--query-gpu=name", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            timeout=_ANSWER_SECONDS,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    if answer.returncode == 0:
        return ""
    said = (answer.stdout.strip() or answer.stderr.strip()).splitlines()
    return said[0] if said else f"exit code {answer.returncode}"


_ANSWER_SECONDS = 10.0
"""Seconds that a driver has to answer about one GPU, while a study waits."""


def lacks_bfloat16(device: str, cpu: Path = Path("/proc/cpuinfo")) -> bool:
    """Return True if ``device`` is known to have no instructions for bfloat16.

    Args:
        device: Name of the device, such as ``cpu`` or ``cuda:0``.
        cpu: File in which Linux shows the features of the processor.
    """
    if device == "cpu":
        try:
            lines = cpu.read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:
            return False
        features = [line for line in lines if line.startswith(("flags", "Features"))]
        return bool(features) and not _BFLOAT16 & set(features[0].split())
    if not device.startswith("cuda"):
        return False
    capability = _number(_of_gpus("compute_cap").get(device, ""))
    return capability is not None and capability < FIRST_WITH_BFLOAT16


_BFLOAT16 = {"avx512_bf16", "avx10_2", "amx_bf16", "bf16"}
"""Features of processors, as Linux names them; the last is ARM's."""


def _of_gpus(query: str) -> dict[str, str]:
    """Return what the driver tells of each GPU that torch may use, by its name."""
    values = _ask(query)
    visible = visible_gpus()
    if visible is None:
        return {f"cuda:{at}": value for at, value in enumerate(values)}
    identities = _ask("uuid") if any(name.startswith("GPU-") for name in visible) else []
    found = {}
    for at, name in enumerate(visible):
        # CUDA takes the beginning of an identity for the whole.
        numbers = [str(index) for index in range(len(values))]
        own = [
            value
            for value, number, identity in zip_longest(values, numbers, identities, fillvalue="")
            if name == number or (name.startswith("GPU-") and identity.startswith(name))
        ]
        if len(own) == 1:
            found[f"cuda:{at}"] = own[0]
    return found


def visible_gpus() -> list[str] | None:
    """Return the driver's names of the GPUs that ``CUDA_VISIBLE_DEVICES`` leaves; None: all."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return None
    names = (name.strip() for name in visible.split(","))
    # CUDA stops reading at the first name that is none, such as -1.
    return list(takewhile(lambda name: name not in ("", "-1"), names))


def _ask(query: str) -> list[str]:
    """Return what the driver tells of each GPU, in its order."""
    lines = _ask_driver(f"--query-gpu={query}", "--format=csv,noheader,nounits")
    return [line.strip() for line in lines if line.strip()]


def _number(text: str) -> float | None:
    """Return a number; None for ``[N/A]`` and the like."""
    try:
        return float(text)
    except ValueError:
        return None


def _gpus() -> list[str]:
    """Return the GPUs that torch may use: those of the driver, within ``CUDA_VISIBLE_DEVICES``."""
    if metadata.version("torch").endswith("+cpu"):
        return []
    count = sum(line.startswith("GPU ") for line in _ask_driver("--list-gpus"))
    if (visible := visible_gpus()) is not None:
        count = min(count, len(visible))
    return [f"cuda:{index}" for index in range(count)]


def _ask_driver(*arguments: str) -> list[str]:
    """Return the lines that NVIDIA's driver answers; none where there is none."""
    try:
        answer = subprocess.run(
            ["nvidia-smi", *arguments], capture_output=True, text=True, check=True, timeout=30
        )
    except (OSError, subprocess.SubprocessError):
        return []
    return answer.stdout.splitlines()
