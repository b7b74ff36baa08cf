"""The most memory that a training takes, in all and in each of its parts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from sweeper.distillation.cost_meter import CostMeter

GIB = 2**30
REST = "rest"
"""Name of what is in none of the parts that a training times."""


class Peaks:
    """Keeps the most memory of each part that a training times.

    Install it before a training is built. On a GPU memory is that of tensors, on a CPU the
    process's own.

    Attributes:
        most: Most memory by part, in GiB.
        reserved: Most that torch took of the GPU, in GiB.
    """

    def __init__(self, device: str) -> None:
        self.most: dict[str, float] = {}
        self.reserved = 0.0
        self._on_gpu = device.startswith("cuda")
        self._parts: list[str] = []

    def install(self) -> None:
        """Look whenever a part begins or ends; nothing waits for the device."""
        start, stop = CostMeter.start, CostMeter.stop

        def started(meter: Any, part: str) -> None:
            self.look()
            self._parts.append(part)
            start(meter, part)

        def stopped(meter: Any) -> None:
            stop(meter)
            self.look()
            self._parts.pop()

        CostMeter.start, CostMeter.stop = started, stopped  # type: ignore[method-assign]

    def forget(self) -> None:
        """Begin anew."""
        self.look()
        self.most.clear()
        self.reserved = 0.0

    def look(self) -> None:
        """Note the most since the last look for the part that ran."""
        part = self._parts[-1] if self._parts else REST
        if self._on_gpu:
            highest = torch.cuda.max_memory_allocated()
            self.reserved = max(self.reserved, torch.cuda.max_memory_reserved() / GIB)
            torch.cuda.reset_peak_memory_stats()
        else:
            status = Path("/proc/self/status").read_text(encoding="ascii")
            highest = int(status.partition("VmHWM:")[2].split()[0]) * 1024
            # The kernel keeps the highest resident size anew.
            Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
        self.most[part] = max(self.most.get(part, 0.0), highest / GIB)
