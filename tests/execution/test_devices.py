"""What a machine has for its jobs."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sweeper.execution.devices import lacks_bfloat16, main_memory


def test_a_container_has_the_memory_that_its_control_group_leaves_it(tmp_path: Path) -> None:
    machine = main_memory(tmp_path)
    assert machine == os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    (tmp_path / "memory.max").write_text("max\n")
    assert main_memory(tmp_path) == machine
    (tmp_path / "memory.max").write_text(f"{2**28}\n")
    assert main_memory(tmp_path) == 2**28
    (tmp_path / "memory").mkdir()
    (tmp_path / "memory" / "memory.limit_in_bytes").write_text(f"{2**27}\n")
    assert main_memory(tmp_path) == 2**27


@pytest.mark.parametrize(
    ("text", "lacks"),
    [
        ("processor\t: 0\nflags\t\t: fpu sse avx2 avx512f avx512bw\n", True),
        ("processor\t: 0\nflags\t\t: fpu avx512f avx512_bf16\n", False),
        ("processor\t: 0\nflags\t\t: fpu amx_bf16 amx_tile\n", False),
        ("processor\t: 0\nFeatures\t: fp asimd bf16 i8mm\n", False),
        ("processor\t: 0\nFeatures\t: fp asimd\n", True),
        ("processor\t: 0\n", False),
    ],
)
def test_bfloat16_is_read_from_the_features_of_the_processor(
    text: str, lacks: bool, tmp_path: Path
) -> None:
    file = tmp_path / "cpuinfo"
    file.write_text(text)
    assert lacks_bfloat16("cpu", file) == lacks


def test_nothing_is_claimed_of_a_device_that_is_not_known(tmp_path: Path) -> None:
    assert not lacks_bfloat16("cpu", tmp_path / "missing")
    assert not lacks_bfloat16("mps")
    assert not lacks_bfloat16("cuda:99")


def test_bfloat16_is_read_from_the_capability_of_a_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver = tmp_path / "nvidia-smi"
    driver.write_text("#!/bin/sh\nprintf '7.5\\n9.0\\n'\n")
    driver.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert [lacks_bfloat16(f"cuda:{index}") for index in (0, 1)] == [True, False]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert not lacks_bfloat16("cuda:0")
