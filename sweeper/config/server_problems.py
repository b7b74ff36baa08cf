"""What a study cannot do with a teacher's server that sweeper starts."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping

from sweeper.config.arms import ArmConfig
from sweeper.config.base import Refusal
from sweeper.config.compute import ComputeConfig
from sweeper.config.models import ModelConfig, StudentConfig


def server_problems(
    teacher: ModelConfig,
    student: StudentConfig,
    arms: Mapping[str, ArmConfig],
    compute: ComputeConfig,
) -> Iterator[Refusal]:
    """Yield what does not fit together, by the key to blame."""
    if student.server is not None:
        yield ("student", "server"), "expected this key at the teacher: a student is trained"
    if teacher.server is None:
        return
    started = ("teacher", "server", "start")
    if compute.executor == "ray":
        message = "expected none with compute.executor: ray; start one by hand, and name its url"
        yield started, message
    if sys.platform != "linux":
        yield started, "expected none on this machine: vLLM runs on Linux"
    for name, arm in arms.items():
        for where in ("settings", "search"):
            for key in getattr(arm, where):
                if key.startswith("teacher."):
                    message = "expected none next to teacher.server: it serves one teacher"
                    yield ("arms", name, where, key), message
