"""What a machine has for its jobs."""

from __future__ import annotations

import os
from pathlib import Path

from sweeper.execution.devices import main_memory


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
