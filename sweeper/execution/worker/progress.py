"""Reports of a job while it runs: the lines of its progress file."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence

from sweeper.foundation.files import append_json_line
from sweeper.records import CollapseSign, Cost, IntermediatePoint, IntermediateScore, Progress
from sweeper.records.layout import JobPaths


class ProgressWriter:
    """Appends to a job's progress file.

    Args:
        paths: Files of the job.
        silent: Write nothing: the process is one next to the first of a trial.
    """

    def __init__(self, paths: JobPaths, *, silent: bool = False) -> None:
        self._paths, self._silent = paths, silent
        self.phase_name = "load"
        self.step = 0
        self.point: dict[str, float] = {}
        self.curve: list[Progress] = []
        self.seconds_before = 0.0
        """Seconds of the steps that an earlier attempt did."""

    def phase(self, name: str, step: int | None = None, total: int | None = None) -> None:
        """Report a new phase, or how far it is."""
        self.phase_name = name
        self._write(Progress(time=time.time(), phase=name, step=step, max_steps=total))

    def train(
        self,
        step: int,
        max_steps: int,
        metrics: dict[str, float],
        collapse: tuple[CollapseSign, ...] = (),
        warnings: tuple[str, ...] = (),
    ) -> None:
        """Report a point of the training curve, the signs that it completes, and warnings."""
        self._add(
            Progress(
                time=time.time(),
                phase="train",
                step=step,
                max_steps=max_steps,
                metrics=metrics,
                collapse=collapse,
                warnings=warnings,
            )
        )

    def interim(self, point: IntermediatePoint, max_steps: int, found: IntermediateScore) -> None:
        """Report a score in the middle of the training."""
        self._write(
            Progress(
                time=time.time(),
                phase=self.phase_name,
                step=point.step,
                max_steps=max_steps,
                interim=found,
            )
        )

    def resume(self, curve: Sequence[Progress], step: int, max_steps: int, seconds: float) -> None:
        """Report what a resumed training did before; the points keep their times."""
        for point in curve:
            self._add(point)
        self.step, self.seconds_before = step, seconds
        self.phase_name = "train"
        self._write(
            Progress(
                time=time.time(),
                phase="train",
                step=step,
                max_steps=max_steps,
                seconds_before=seconds,
            )
        )

    @property
    def collapse(self) -> tuple[CollapseSign, ...]:
        """Signs of collapse in the training so far."""
        return tuple(sign for point in self.curve for sign in point.collapse)

    @property
    def warnings(self) -> tuple[str, ...]:
        """Warnings about the training so far."""
        return tuple(warning for point in self.curve for warning in point.warnings)

    def cost(self, seconds: float) -> Cost:
        """Return what a job that stops here has cost, as far as it has reported."""
        return Cost(
            steps=self.step,
            trained_tokens=int(self.point.get("trained_tokens", 0)),
            generated_tokens=int(self.point.get("generated_tokens", 0)),
            device_seconds=seconds + self.seconds_before,
        )

    def _add(self, point: Progress) -> None:
        # The outcome is JSON, which has no NaN; a diverged training's last point holds one.
        finite = {name: value for name, value in point.metrics.items() if math.isfinite(value)}
        self.step, self.point = point.step or 0, finite
        self.curve.append(point)
        self._write(point)

    def _write(self, progress: Progress) -> None:
        if not self._silent:
            append_json_line(self._paths.progress, progress.model_dump(exclude_defaults=True))
