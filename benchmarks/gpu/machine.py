"""The devices of this machine, as torch sees them."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from typing import Any


def describe(wanted: str, meet: Callable[[], None]) -> dict[str, Any]:
    """Return the kind, name, number and memory of the devices to measure on.

    Args:
        wanted: ``auto`` for a GPU if there is one, ``cuda`` or ``cpu``.
        meet: Not used: nobody waits.

    Raises:
        RuntimeError: A GPU is wanted and torch can use none.
    """
    import torch

    from sweeper.execution.devices import main_memory
    from sweeper.foundation.environment import hardware

    if wanted == "cpu" or (wanted == "auto" and not torch.cuda.is_available()):
        # Two processes stand for two devices.
        memory = main_memory() / 2**30
        return {"kind": "cpu", "name": hardware()["processor"], "count": 2, "memory_gib": memory}
    if not torch.cuda.is_available():
        raise RuntimeError(
            f"torch {torch.__version__}, built for CUDA {torch.version.cuda}, can use no GPU here"
        )
    properties = torch.cuda.get_device_properties(0)
    return {
        "kind": "cuda",
        "name": properties.name,
        "count": torch.cuda.device_count(),
        "memory_gib": properties.total_memory / 2**30,
        "capability": f"{properties.major}.{properties.minor}",
        "cuda": torch.version.cuda,
        "driver": _driver(),
    }


def _driver() -> str | None:
    """Return the version of the driver; None if it does not answer."""
    try:
        answer = subprocess.run(
            ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            check=True,
            timeout=30,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return (answer.stdout.strip().splitlines() or [None])[0]
