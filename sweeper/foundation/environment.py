"""Software and hardware that a result comes from."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import MutableMapping
from importlib import metadata
from pathlib import Path

import sweeper

PACKAGES = (
    "torch",
    "transformers",
    "trl",
    "peft",
    "accelerate",
    "datasets",
    "lm-eval",
    "optuna",
    "mlflow",
)

_LEFTOVERS = (
    *(
        "RANK",
        "LOCAL_RANK",
        "WORLD_SIZE",
        "LOCAL_WORLD_SIZE",
        "NODE_RANK",
        "NPROC",
        "FORK_LAUNCHED",
    ),
    *("GROUP_RANK", "GROUP_WORLD_SIZE", "ROLE_RANK", "ROLE_NAME", "ROLE_WORLD_SIZE"),
    *("USE_TORCH_XLA", "TPU_NAME", "SMDATAPARALLEL_LOCAL_RANK"),
)
_LEFTOVER_PREFIXES = (
    *("ACCELERATE_", "DEEPSPEED_", "FP8_", "FSDP_", "MASTER_", "MEGATRON_", "PARALLELISM_CONFIG_"),
    *("MPI_", "MV2_COMM_WORLD_", "OMPI_COMM_WORLD_", "PMI_", "PJRT_", "TORCHELASTIC_", "XLA_"),
)


def clear_leftovers(environment: MutableMapping[str, str]) -> tuple[str, ...]:
    """Remove what launchers leave in a shell, which would change or hang a trial; return its names.

    Precision, devices and processes of a trial follow from its study alone.
    """
    found = tuple(
        name
        for name in sorted(environment)
        if name in _LEFTOVERS or name.startswith(_LEFTOVER_PREFIXES)
    )
    for name in found:
        del environment[name]
    return found


def package_versions() -> dict[str, str]:
    """Return the versions of Python, sweeper and the packages that results depend on."""
    found = {"python": platform.python_version(), "sweeper": sweeper.__version__}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def library_versions() -> dict[str, str]:
    """Return the versions that decide what a model computes: part of every cache key."""
    found = package_versions()
    return {name: found[name] for name in ("sweeper", "torch", "transformers", "trl", "peft")}


def hardware() -> dict[str, str]:
    """Return the machine: processor, cores that may be used, memory in GiB."""
    pages, size = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
    return {
        "platform": platform.platform(),
        "processor": _processor(),
        "cores": str(available_cores()),
        "memory_gib": f"{pages * size / 2**30:.1f}",
    }


def available_cores() -> int:
    """Return the number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def git_revision(directory: Path) -> str | None:
    """Return the revision of the repository around ``directory``; ``+`` marks local changes."""
    try:
        revision = _git(directory, "rev-parse", "HEAD")
        changed = _git(directory, "status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.SubprocessError):
        return None
    return revision + ("+" if changed else "")


def _git(directory: Path, *arguments: str) -> str:
    command = ["git", "-C", str(directory), *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, check=True, timeout=10
    ).stdout.strip()


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            for line in file:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
