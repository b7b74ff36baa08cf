"""Software and hardware that a result comes from."""

from __future__ import annotations

import os
import platform
import subprocess
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
