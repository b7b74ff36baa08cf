"""Software and hardware that a result comes from."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Mapping, MutableMapping
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

_LAUNCHERS = (
    *("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "NODE_RANK", "NPROC"),
    *("FORK_LAUNCHED", "GROUP_RANK", "GROUP_WORLD_SIZE"),
    *("ROLE_RANK", "ROLE_NAME", "ROLE_WORLD_SIZE", "TPU_NAME", "USE_TORCH_XLA"),
)
_COMPUTATION = (
    # Precision of products, below what torch shows.
    *("NVIDIA_TF32_OVERRIDE", "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE"),
    *("DNNL_DEFAULT_FPMATH_MODE", "ONEDNN_DEFAULT_FPMATH_MODE"),
    # Other code in place of the libraries' own.
    *("TRANSFORMERS_SDPA_FORCE_GQA", "TRITON_INTERPRET", "USE_HUB_KERNELS"),
    *("USE_TORCH", "USE_TF", "USE_JAX", "USE_FLAX"),
    # Pickled weights, and code that comes with models.
    *("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "TRUST_REMOTE_CODE"),
)
_PREFIXES = (
    *("ACCELERATE_", "DEEPSPEED_", "FP8_", "FSDP_", "MASTER_", "MEGATRON_", "PARALLELISM_CONFIG_"),
    *("MPI_", "MV2_COMM_WORLD_", "OMPI_COMM_WORLD_", "PMI_", "PJRT_", "TORCHELASTIC_", "XLA_"),
    *("SM_", "SMDATAPARALLEL_", "TORCHDYNAMO_", "TORCHINDUCTOR_"),
)
_KEPT = ("TORCHDYNAMO_DISABLE", "TORCHINDUCTOR_CACHE_DIR", "TORCHINDUCTOR_COMPILE_THREADS")
"""Variables of a machine without a compiler, or with little room."""


def leftovers(environment: Mapping[str, str]) -> tuple[str, ...]:
    """Return the names in ``environment`` that would change or hang a trial.

    Launchers leave some of them in a shell. Precision, devices and processes of a trial follow
    from its study alone.
    """
    return tuple(
        name
        for name in sorted(environment)
        if name in _LAUNCHERS
        or name in _COMPUTATION
        or (name.startswith(_PREFIXES) and name not in _KEPT)
    )


def clear_leftovers(environment: MutableMapping[str, str]) -> tuple[str, ...]:
    """Remove the ``leftovers`` of an environment; return their names."""
    found = leftovers(environment)
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
