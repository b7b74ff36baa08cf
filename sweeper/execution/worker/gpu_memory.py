"""Setting of torch's allocator for a process that trains on a GPU, and who has GPUs open."""

from __future__ import annotations

import os
from collections.abc import MutableMapping

from sweeper.records import Resources

EXPANDABLE = "expandable_segments:True"
_NAMES = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_HIP_ALLOC_CONF")
"""Variables by which a user sets the allocator up; torch reads the first that is there."""


def allocator_settings(place: Resources, environment: MutableMapping[str, str]) -> str | None:
    """Set a job's environment up for expandable segments; return the settings for torch.

    A training's tensors change their sizes with its texts, and fixed segments leave gaps that no
    later tensor fits in. Segments that grow leave none. The environment is for processes that the
    job starts, and for a torch that has not read it yet.

    Memory that a vLLM server reads where it lies stays in fixed segments. It reaches the server's
    process by ``cudaIpcGetMemHandle``. Growing segments reach it by ``pidfd_getfd``, which
    containers and most distributions forbid between processes that did not start each other.

    Returns:
        None on other devices, with such a server, or if the user has set the allocator up.
    """
    shares = place.served_student is not None or place.gpu_students
    if not place.device.startswith("cuda") or shares:
        return None
    if any(name in environment for name in _NAMES):
        return None
    environment[_NAMES[0]] = EXPANDABLE
    return EXPANDABLE


def open_gpu_files(folder: str = "/proc/self/fd") -> list[str]:
    """Return the device files of GPUs that a process has open; none where that is not known."""
    found = []
    try:
        numbers = os.listdir(folder)
    except OSError:
        return []
    for number in numbers:
        try:
            target = os.readlink(f"{folder}/{number}")
        except OSError:  # closed meanwhile: it was the folder's own
            continue
        if target.startswith(("/dev/nvidia", "/dev/kfd", "/dev/dri/")):
            found.append(target)
    return sorted(found)
