"""What a coordinator works with, each made and closed by its caller."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

from sweeper.execution.executor import Executor
from sweeper.foundation.database_retry import Retry
from sweeper.records import Outcome, Resources, TrialSpec
from sweeper.study.arms import ArmState
from sweeper.study.early_stopping import StopReason
from sweeper.study.interrupts import StopRequest
from sweeper.study.jobs import Jobs
from sweeper.study.served import Served
from sweeper.tracking.tracker import Tracker

Phase = Literal["prepare", "search", "confirm"]


class RunningStudy(Protocol):
    """What an observer reads of a study that runs."""

    started: float
    """When the run began, in seconds since the epoch."""
    phase: Phase
    higher_is_better: bool
    jobs: Jobs
    stop: StopRequest
    waiting_for: str | None
    """What jobs wait for, in words: ``starting the teacher's server``."""

    @property
    def arms(self) -> Mapping[str, ArmState]:
        """Arms of the current phase; none before the search."""

    def stop_reason(self, arm: str) -> StopReason | None:
        """Return the limit of the study's budget that keeps an arm from starting a trial now."""


class Observer(Protocol):
    """A display of a study that runs."""

    def update(self, run: RunningStudy) -> None:
        """Draw the study as it is now; called several times a second."""

    def ended(self, spec: TrialSpec, outcome: Outcome) -> None:
        """Draw the end of a trial."""

    def message(self, text: str) -> None:
        """Print a line."""


@dataclass(frozen=True)
class Collaborators:
    """What a coordinator works with."""

    executor: Executor
    """Executor of the jobs; entered already."""
    tracker: Tracker
    observer: Observer
    stop: StopRequest = field(default_factory=StopRequest)
    retry: Retry = field(default_factory=Retry)
    """Retry for databases that do not answer; the tracker shares it."""
    preflight: Callable[[Outcome], None] = lambda outcome: None
    """Function that is given the outcome of the data step, and raises to refuse the study."""
    served: Served | None = None
    """Servers of the study, none of them started yet; None if it starts none."""

    def place(self, directory: Path, avoid: Collection[str] = ()) -> Resources:
        """Return where the next job runs that works in ``directory``, with servers it may ask.

        It is on none of the devices to ``avoid`` if there are others.
        """
        place = self.executor.next_resources(directory, *([avoid] if avoid else []))
        return place if self.served is None else self.served.place(place)
