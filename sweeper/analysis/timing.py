"""How long trials take, and the study that they add up to: what was measured, what follows."""

from __future__ import annotations

from typing import Literal

from sweeper.config.base import Scalar
from sweeper.config.settings import Method
from sweeper.records import Record


class TrialTiming(Record):
    """What a trial takes of its worker, in seconds, at settings of its arm's search."""

    params: dict[str, Scalar] = {}
    """Those settings."""
    start: float
    """Its process, data and models, and what the first step takes beyond the others."""
    step: float
    """One optimiser step."""
    steps: int
    """Optimiser steps of the trial."""
    scoring: float
    """The whole selection suite."""
    parts: dict[str, float] = {}
    """Of a step: ``rollout``, ``teacher``, ``student``, ``optimiser``."""
    trained_tokens: float = 0.0
    """Of a step."""
    rollout_length: float | None = None
    """Mean tokens of a rollout; None if there were none."""
    peak_bytes: int | None = None
    """The most memory that it took; see ``Outcome``."""

    @property
    def training(self) -> float:
        """All of its steps."""
        return self.steps * self.step

    @property
    def seconds(self) -> float:
        """The whole trial."""
        return self.start + self.training + self.scoring


class ArmTiming(Record):
    """The trials of an arm, between two that were measured.

    What they take is linear in between: a share ``lmbda`` of the steps samples from the student.
    """

    arm: str
    method: Method
    lightest: TrialTiming
    heaviest: TrialTiming
    low: float = 0.0
    """Where the cheapest trials are: 0 is the lightest that was measured, 1 the heaviest."""
    mean: float = 0.5
    """Where they are on average."""
    high: float = 1.0
    """Where the dearest are."""

    def at(self, place: float) -> TrialTiming:
        """A trial in between."""
        light, heavy = self.lightest, self.heaviest

        def between(ours: float, theirs: float) -> float:
            return ours + place * (theirs - ours)

        names = dict.fromkeys((*light.parts, *heavy.parts))
        return TrialTiming(
            start=between(light.start, heavy.start),
            step=between(light.step, heavy.step),
            steps=round(between(light.steps, heavy.steps)),
            scoring=between(light.scoring, heavy.scoring),
            parts={
                name: between(light.parts.get(name, 0.0), heavy.parts.get(name, 0.0))
                for name in names
            },
            trained_tokens=between(light.trained_tokens, heavy.trained_tokens),
            rollout_length=heavy.rollout_length,
        )


class StudyTiming(Record):
    """What was measured of a study."""

    basis: Literal["probe", "records"]
    """Whether a few steps were run for it, or the study's own trials say so."""
    trials: int
    """How many trials were measured, or parts of them."""
    workers: int
    """Trials at a time, then and in the study."""
    device: str = "cpu"
    """What trials ran on."""
    preparation: dict[str, float]
    """Seconds of each step: ``data``, ``teacher``, ``student``."""
    parts: dict[str, float] = {}
    """What is known of them: seconds of the warm start, the teacher's outputs, …"""
    teacher_scoring: float
    """Seconds of the teacher on the selection suite."""
    documents: int
    """Of the selection suite, with those of tasks of weight 0: they take as long."""
    tasks: int = 1
    """Of the selection suite."""
    arms: tuple[ArmTiming, ...]


PhaseName = Literal["preparation", "search", "confirmation", "test scoring"]


class Phase(Record):
    """A part of a study."""

    name: PhaseName
    wall_seconds: float
    device_seconds: float
    """Of all workers together."""


class ArmTime(Record):
    """What one arm takes."""

    arm: str
    method: Method
    step_seconds: float
    """One optimiser step of an average trial."""
    tokens_per_second: float
    """Tokens that the loss is taken over, by second of training."""
    scoring_seconds: float
    """The selection suite, once."""
    trial_seconds: float
    """An average trial."""
    trial_range: tuple[float, float]
    """The cheapest and the dearest."""
    trials: int
    """Of the search."""
    trainings: int
    """Of its winners, with new seeds and at all measures of cost."""
    device_hours: float
    """Of the search and of its winners."""
    peak_bytes: int | None
    """The most memory that a trial took that was measured; None if that is not known."""
    lightest: dict[str, Scalar]
    """Of what is searched and costs time, what the cheapest trial had that was measured."""
    heaviest: dict[str, Scalar]
    """The same of the dearest; equal where one trial stands for all."""


class DurationEstimate(Record):
    """What a study takes from its beginning to its end, if nothing fails and no limit ends it."""

    basis: Literal["probe", "records"]
    measured: int
    """Trials that were measured."""
    workers: int
    wall_seconds: float
    wall_range: tuple[float, float]
    """If all trials are the cheapest, or the dearest, of their searches."""
    pruned_wall_seconds: float | None = None
    """If the pruner ends half of the trials that it may, at the first look; None without one."""
    device_hours: float
    phases: tuple[Phase, ...]
    parts: dict[str, float] = {}
    """What is known of the preparation: seconds of the warm start, the teacher's outputs, …"""
    arms: tuple[ArmTime, ...]
