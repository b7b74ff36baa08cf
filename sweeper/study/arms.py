"""The arms of a study that runs: the state of each, and the records of its trials."""

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
    """A trial that a search has asked for."""

    def is_finished(self) -> bool:
        """Return whether the search was told how the trial ended."""


class Search(Protocol):
    """The source of an arm's trials."""

    def asked(self) -> Mapping[int, AskedTrial]:
        """Return the trials that were asked for, by number."""

    def ask(self) -> Asked:
        """Return the next trial."""

    def resume(self, number: int) -> Asked:
        """Return a trial that was asked for before."""

    def should_continue(self, number: int, interim: IntermediateScore) -> bool:
        """Decide whether a trial continues after an intermediate score."""

    def tell(self, number: int, outcome: Outcome) -> None:
        """Record how a trial ended; telling the same again changes nothing."""


@dataclass
class ArmState:
    """One arm: its search and its progress; or its confirmation runs and theirs."""

    name: str
    method: Method
    budget: int
    search: Search
    pending: deque[int] = field(default_factory=deque)
    """Numbers of interrupted trials, to run first."""
    interim: tuple[tuple[int, float], ...] = ()
    """Intermediate scores of its trials: the point, and the share of the optimiser steps."""
    asked: int = 0
    """Trials that were asked for."""
    ended: dict[int, TrialSummary] = field(default_factory=dict)
    """The trials that ended, by number."""
    runs: tuple[ConfirmationRun, ...] | None = None
    """Confirmation runs that the numbers stand for; None in the search."""

    def unfinished(self) -> bool:
        """Return whether there is something left to start."""
        return bool(self.pending) or self.asked < self.budget

    def files(self, paths: StudyPaths, number: int) -> JobPaths:
        """Return the files of a trial or of a confirmation run of the arm."""
        place = paths.trial if self.runs is None else paths.confirmation_run
        return place(self.name, number)


class TrialRecorder:
    """Keeps Optuna, MLflow and a study's files consistent about the trials that ended.

    Args:
        paths: The study's place below ``runs``.
        storage: Optuna's database, for messages.
        tracker: Records the trials for people.
        secrets: Words that no log may hold.
    """

    def __init__(
        self, paths: StudyPaths, storage: str, tracker: Tracker, secrets: Collection[str]
    ) -> None:
        self._paths = paths
        self._storage = storage
        self._tracker = tracker
        self._secrets = frozenset(secrets)

    def resume(self, arm: ArmState) -> None:
        """Resume what an earlier run left of an arm: recorded, finished, or interrupted trials.

        Raises:
            SweeperError: The search lacks trials that have run.
        """
        asked = arm.search.asked()
        # Runs of an earlier plan may lie next to those of this one.
        trials = self._paths.trials(arm.name) if arm.runs is None else ()
        begun = [number for number, files in trials if files.spec.exists()]
        if forgotten := [number for number in begun if number not in asked]:
            raise SweeperError(
                f"The Optuna database lacks trials of arm {arm.name} from #{forgotten[0]} on: it"
                f" has {len(asked)}, {self._paths.directory} has {len(begun)}. Restore"
                f" {self._storage}, or remove {self._paths.directory} to start anew."
            )
        for number, state in asked.items():
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
        """Tell Optuna, then MLflow, then mark the trial as recorded; safe to repeat after a crash.

        Args:
            arm: The arm of the trial.
            spec: The spec of the trial.
            outcome: How the trial ended.
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
