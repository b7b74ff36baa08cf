"""GPUs that do not reach each other's memory, which accelerate refuses to start next to."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from accelerate.utils import check_cuda_p2p_ib_support

from sweeper.distillation.distributed import allow_old_drivers

NAMES = ("NCCL_P2P_DISABLE", "NCCL_IB_DISABLE")


def install(folder: Path, gpus: list[str], version: str) -> None:
    """Write a driver, as a program, that reports these GPUs."""
    driver = folder / "nvidia-smi"
    lines = "".join(f"echo '{len(gpus)}, {name}'\n" for name in gpus)
    versions = f"echo {version}\n" * len(gpus)
    driver.write_text(f'#!/bin/sh\ncase "$1" in *driver_version*) {versions};; *) {lines};; esac\n')
    driver.chmod(0o755)


@pytest.mark.parametrize(
    ("gpus", "version", "device", "given", "expected"),
    [
        (["NVIDIA GeForce RTX 4090"] * 2, "535.183.01", "cuda:0", {}, ("1", "1")),
        (
            ["NVIDIA GeForce RTX 4090"] * 2,
            "535.183.01",
            "cuda:0",
            {"NCCL_IB_DISABLE": "0"},
            ("1", "0"),
        ),
        (["NVIDIA GeForce RTX 4090"] * 2, "550.54.14", "cuda:0", {}, (None, None)),
        (["NVIDIA GeForce RTX 4090"], "535.183.01", "cuda:0", {}, (None, None)),
        (["NVIDIA H100 80GB HBM3"] * 8, "535.183.01", "cuda:0", {}, (None, None)),
        (["NVIDIA GeForce RTX 4090"] * 2, "535.183.01", "cpu", {}, (None, None)),
    ],
)
def test_accelerate_starts_next_to_gpus_without_peer_access(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    gpus: list[str],
    version: str,
    device: str,
    given: dict[str, str],
    expected: tuple[str | None, str | None],
) -> None:
    install(tmp_path, gpus, version)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    for name in NAMES:
        monkeypatch.setenv(name, "")  # what it is after the test
        monkeypatch.delenv(name)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    allow_old_drivers(device)
    assert tuple(map(os.environ.get, NAMES)) == expected
    # What accelerate asks for is there, wherever it would refuse.
    if device != "cpu" and not check_cuda_p2p_ib_support():
        assert set(NAMES) <= set(os.environ)
