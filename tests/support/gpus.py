"""GPUs that a machine does not have."""

from __future__ import annotations

from pathlib import Path

import pytest


def report_gpus(monkeypatch: pytest.MonkeyPatch, folder: Path, count: int, gib: int = 80) -> None:
    """Put a driver into the path, as a program, that reports so many GPUs of one size."""
    driver = folder / "bin" / "nvidia-smi"
    driver.parent.mkdir(exist_ok=True)
    numbers = " ".join(map(str, range(count)))
    driver.write_text(
        "#!/bin/sh\n"
        f'case "$1" in --list-gpus) for i in {numbers}; do echo "GPU $i"; done;;\n'
        f"*) for i in {numbers}; do echo {gib * 1024}; done;; esac\n"
    )
    driver.chmod(0o755)
    monkeypatch.setenv("PATH", f"{driver.parent}:/usr/bin:/bin")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr("importlib.metadata.version", lambda name: "2.13.0")
