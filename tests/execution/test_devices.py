"""What a machine has for its jobs."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sweeper.config.device_defaults import CPU, DeviceKind
from sweeper.execution.devices import all_gpu_kinds, device_kinds, lacks_bfloat16, main_memory
from tests.support.gpus import report_gpus


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
    report_gpus(monkeypatch, tmp_path, 2, capabilities=("7.5", "9.0"))
    assert [lacks_bfloat16(f"cuda:{index}") for index in (0, 1)] == [True, False]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert not lacks_bfloat16("cuda:0")


OLD, NEW = DeviceKind("cuda", "GPU 7.5", 7.5), DeviceKind("cuda", "GPU 12.0", 12.0)
SILENT = DeviceKind("cuda", "GPU [N/A]")


@pytest.mark.parametrize(
    ("capabilities", "visible", "devices", "kinds"),
    [
        (("7.5", "12.0"), None, ["cuda:0", "cuda:1"], [OLD, NEW]),
        (("12.0",), None, ["cuda:0", "cuda:1"], [NEW]),
        (("7.5", "12.0"), "1", ["cuda:0"], [NEW]),
        (("7.5", "12.0"), "1, 0", ["cuda:0", "cuda:1"], [NEW, OLD]),
        (("7.5", "12.0"), "1,-1,0", ["cuda:0"], [NEW]),
        # By identity, or the beginning of one that no other has.
        (("7.5", "12.0"), "GPU-1f00-ba12", ["cuda:0"], [NEW]),
        (("7.5", "12.0"), "GPU-1f,GPU-0", ["cuda:0", "cuda:1"], [NEW, OLD]),
        (("7.5", "12.0"), "GPU-", ["cuda:0"], [DeviceKind("cuda", "GPU")]),
        # A part of one, which may be of any.
        (("7.5", "12.0"), "MIG-5", ["cuda:0"], [DeviceKind("cuda", "GPU")]),
        # What the driver does not report of one GPU moves no other.
        (("[N/A]", "12.0"), None, ["cuda:0", "cuda:1"], [SILENT, NEW]),
        (("12.0",), None, ["cpu"], [CPU]),
        (("12.0",), None, ["mps"], [DeviceKind("mps", "MPS")]),
    ],
)
def test_the_kinds_of_devices_are_those_that_the_driver_reports(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capabilities: tuple[str, ...],
    visible: str | None,
    devices: list[str],
    kinds: list[DeviceKind],
) -> None:
    report_gpus(monkeypatch, tmp_path, 2, capabilities=capabilities)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert device_kinds(devices) == kinds


def test_what_a_shell_hides_from_torch_is_no_less_a_part_of_the_node(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    report_gpus(monkeypatch, tmp_path, 2, capabilities=("7.5", "12.0"))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert all_gpu_kinds() == [OLD, NEW]


def test_a_gpu_without_a_driver_that_answers_is_of_no_known_kind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert device_kinds(["cuda:0"]) == [DeviceKind("cuda", "GPU")]
    assert all_gpu_kinds() == []
