"""The arms of a study that runs: what each knows, and what is recorded of its trials."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from sweeper.config.settings import Method
from sweeper.foundation.errors import SweeperError
from sweeper.foundation.files import read_json_lines, write_text_atomically
from sweeper.records import ConfirmationRun, IntermediateScore, Outcome, Progress, TrialSpec
from sweeper.records.layout import JobPaths, StudyPaths
from sweeper.records.outcome_files import read_outcome
from sweeper.search.arm_search import Asked
from sweeper.study import retries
from sweeper.study.budgets import TrialSummary, summarize
from sweeper.study.jobs import clean_log
from sweeper.tracking.tracker import Tracker


class AskedTrial(Protocol):
    """What a search knows of a trial."""

    def is_finished(self) -> bool:
        """Whether it was told how the trial ended."""


class Search(Protocol):
    """Where an arm's trials come from."""

    def asked(self) -> Mapping[int, AskedTrial]:
        """The trials that were asked for, by number."""

    def ask(self) -> Asked:
        """The next trial."""

    def resume(self, number: int) -> Asked:
        """One that was asked for."""

    def should_continue(self, number: int, interim: IntermediateScore) -> bool:
        """Whether a trial that was scored in the middle of its training goes on."""

    def tell(self, number: int, outcome: Outcome) -> None:
        """How a trial ended; telling the same again changes nothing."""


@dataclass
class ArmState:
    """One arm: its search, and how far it is; or its winners, which are trained again."""

    name: str
    method: Method
    budget: int
    search: Search
    pending: deque[int] = field(default_factory=deque)
    """Trials that were interrupted, to run first."""
    interim: tuple[tuple[int, float], ...] = ()
    """Where in their training its students are scored: the point, and the share of the steps."""
    asked: int = 0
    ended: dict[int, TrialSummary] = field(default_factory=dict)
    """The trials that ended, by number."""
    finals: tuple[ConfirmationRun, ...] | None = None
    """What the numbers stand for once the arm's winners are trained again."""

    def unfinished(self) -> bool:
        """Whether there is something left to start."""
        return bool(self.pending) or self.asked < self.budget

    def files(self, paths: StudyPaths, number: int) -> JobPaths:
        """Where a trial of the arm, or a winner, is kept."""
        place = paths.trial if self.finals is None else paths.confirmation_run
        return place(self.name, number)


class TrialRecorder:
    """Keeps Optuna, MLflow and a study's files of one mind about the trials that ended.

    Args:
        paths: Where the study is recorded.
        storage: Where Optuna keeps it, for people.
        tracker: MLflow's.
        secrets: What must not stand in a log.
    """

    def __init__(
        self, paths: StudyPaths, storage: str, tracker: Tracker, secrets: Collection[str]
    ) -> None:
        self._paths = paths
        self._storage = storage
        self._tracker = tracker
        self._secrets = frozenset(secrets)

    def take_up(self, arm: ArmState) -> None:
        """Take up what an earlier run left: told, finished but not told, or interrupted.

        Raises:
            SweeperError: Trials have run that the search knows nothing of.
        """
        known = arm.search.asked()
        # Winners of an earlier plan may lie beside those of this one.
        trials = self._paths.trials(arm.name) if arm.finals is None else ()
        begun = [number for number, files in trials if files.spec.exists()]
        if forgotten := [number for number in begun if number not in known]:
            raise SweeperError(
                f"The search has lost trials of the arm {arm.name}, from #{forgotten[0]} on: it"
                f" knows {len(known)}, but {len(begun)} lie in {self._paths.directory}. Put"
                f" {self._storage} back as it was, or"
                f" remove {self._paths.directory} to begin anew."
            )
        for number, state in known.items():
            arm.asked += 1
            files = arm.files(self._paths, number)
            outcome = read_outcome(files)
            if outcome is None or not files.recorded.exists():
                # Whoever saw it end may not have come to this.
                clean_log(files, self._secrets)
            reason = retries.lost_for_good(files) if outcome is None else None
            if reason is not None and (spec := _readable_spec(files)):
                outcome = retries.lost(spec, reason, files)
                write_text_atomically(files.outcome, outcome.model_dump_json(indent=1) + "\n")
            if outcome is None or not retries.is_over(outcome, files):
                arm.pending.append(number)
                continue
            if not files.recorded.exists() or not state.is_finished():
                spec = _read_spec(files)
                if retries.may_be_smaller(spec, outcome, files):
                    arm.pending.append(number)
                    continue
                lines, _ = read_json_lines(files.progress)
                rows = [Progress.model_validate(line) for line in lines]
                self.record(arm, spec, outcome, rows)
            arm.ended[number] = summarize(outcome)

    def record(
        self, arm: ArmState, spec: TrialSpec, outcome: Outcome, rows: Sequence[Progress] = ()
    ) -> None:
        """Tell Optuna, then MLflow, then note that both know; safe to repeat after a crash.

        Args:
            arm: The trial's.
            spec: The trial's.
            outcome: How it ended.
            rows: Its progress, if this process has not logged it while the trial ran.
        """
        files = arm.files(self._paths, spec.number)
        arm.search.tell(spec.number, outcome)
        self._tracker.start_trial(spec)
        if rows:
            self._tracker.log_progress(spec, rows)
        self._tracker.finish_trial(spec, outcome, files)
        retries.discard_checkpoint(files)
        files.recorded.touch()


def _readable_spec(files: JobPaths) -> TrialSpec | None:
    try:
        return _read_spec(files)
    except (OSError, ValueError):
        return None


def _read_spec(files: JobPaths) -> TrialSpec:
    return TrialSpec.model_validate_json(files.spec.read_text(encoding="utf-8"))
