"""How long trials take, and the study that they add up to: measurements and their estimate."""

from __future__ import annotations

from typing import Literal

from sweeper.config.base import Scalar
from sweeper.config.settings import Method
from sweeper.records import Record


class TrialTiming(Record):
    """Seconds that a trial occupies its worker."""

    params: dict[str, Scalar] = {}
    """Settings that were chosen from the arm's search."""
    start: float
    """Seconds before the first step, with what that step takes beyond the others."""
    step: float
    """Seconds of one optimiser step."""
    steps: int
    """Optimiser steps of the trial."""
    scoring: float
    """Seconds of scoring the whole selection suite."""
    parts: dict[str, float] = {}
    """Seconds of a step's parts: ``rollout``, ``teacher``, ``student``, ``optimiser``."""
    trained_tokens: float = 0.0
    """Trained tokens of a step."""
    rollout_length: float | None = None
    """Mean tokens of a rollout; None if there were none."""
    peak_bytes: int | None = None
    """Peak memory of the trial; see ``Outcome``."""

    @property
    def training(self) -> float:
        """Seconds of all optimiser steps."""
        return self.steps * self.step

    @property
    def seconds(self) -> float:
        """Seconds of the whole trial."""
        return self.start + self.training + self.scoring


class ArmTiming(Record):
    """The cheapest and the most expensive trial that were measured of an arm."""

    arm: str
    method: Method
    lightest: TrialTiming
    """Cheapest trial."""
    heaviest: TrialTiming
    """Most expensive trial; the cheapest again where one trial stands for all."""

    @property
    def mean(self) -> TrialTiming:
        """Expected trial: the mean of the two."""
        both = (self.lightest, self.heaviest)
        steps = round(sum(trial.steps for trial in both) / 2)
        return TrialTiming(
            start=sum(trial.start for trial in both) / 2,
            step=sum(trial.training for trial in both) / 2 / steps,
            steps=steps,
            scoring=sum(trial.scoring for trial in both) / 2,
            trained_tokens=sum(trial.steps * trial.trained_tokens for trial in both) / 2 / steps,
        )


class StudyTiming(Record):
    """Measured times of a study."""

    workers: int
    """Trials at a time, in the measurement and in the study."""
    device: str = "cpu"
    """Device of the trials."""
    preparation: dict[str, float]
    """Seconds of each preparation step: ``data``, ``teacher``, ``student``."""
    teacher_scoring: float
    """Seconds of scoring the teacher on the selection suite."""
    documents: int
    """Documents of the selection suite, including tasks of weight 0."""
    tasks: int = 1
    """Tasks of the selection suite."""
    arms: tuple[ArmTiming, ...]


PhaseName = Literal["preparation", "search", "confirmation", "test scoring"]


class Phase(Record):
    """Time of one phase of a study."""

    name: PhaseName
    wall_seconds: float
    device_seconds: float


class ArmTime(Record):
    """Expected times of one arm."""

    arm: str
    method: Method
    step_seconds: float
    """Seconds of an optimiser step in the expected trial."""
    tokens_per_second: float
    """Trained tokens by second of training."""
    scoring_seconds: float
    """Seconds of scoring the selection suite once."""
    trial_seconds: float
    trial_range: tuple[float, float]
    """Seconds of the cheapest and of the most expensive trial."""
    trials: int
    """Trials of the search."""
    trainings: int
    """Trainings of the arm's winners, with new seeds and at all measures of cost."""
    device_hours: float
    """Device-hours of the search and of the winners."""
    peak_bytes: int | None
    """Largest peak memory that was measured; None if it was not."""
    lightest: dict[str, Scalar]
    """Searched settings that cost time, in the cheapest trial that was measured."""
    heaviest: dict[str, Scalar]
    """Searched settings that cost time, in the most expensive trial that was measured."""


class DurationEstimate(Record):
    """Expected duration of a whole study in which nothing fails and no limit ends anything."""

    workers: int
    wall_seconds: float
    wall_range: tuple[float, float]
    """Seconds if every trial is its arm's cheapest, and if every trial is its most expensive."""
    device_hours: float
    phases: tuple[Phase, ...]
    arms: tuple[ArmTime, ...]
