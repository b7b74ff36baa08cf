"""GPUs that a machine does not have."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

import pytest


def report_gpus(
    monkeypatch: pytest.MonkeyPatch,
    folder: Path,
    count: int,
    gib: int = 80,
    capabilities: Sequence[str] = ("8.0",),
) -> None:
    """Put a driver into the path, as a program, that reports so many GPUs of one size.

    Their compute capabilities are ``capabilities``, of which the last stands for all that follow.
    """
    driver = folder / "bin" / "nvidia-smi"
    driver.parent.mkdir(exist_ok=True)
    known = [capabilities[min(index, len(capabilities) - 1)] for index in range(count)]
    answers = {
        "--list-gpus": [f"GPU {index}" for index in range(count)],
        "--query-gpu=memory.total": [str(gib * 1024)] * count,
        "--query-gpu=name": [f"GPU {capability}" for capability in known],
        "--query-gpu=compute_cap": known,
        "--query-gpu=uuid": [f"GPU-{index}f00-ba12" for index in range(count)],
    }
    cases = [f"{query}) printf '%s\\n' {shlex.join(lines)};;" for query, lines in answers.items()]
    driver.write_text(f'#!/bin/sh\ncase "$1" in {" ".join(cases)} esac\n')
    driver.chmod(0o755)
    monkeypatch.setenv("PATH", f"{driver.parent}:/usr/bin:/bin")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr("importlib.metadata.version", lambda name: "2.13.0")
