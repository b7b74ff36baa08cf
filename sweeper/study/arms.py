"""The arms of a study that runs: the state of each, and the records of its trials."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from sweeper.analysis.server_costs import Job, Shares, charge
from sweeper.config.base import Scalar
from sweeper.config.settings import Method
from sweeper.foundation.errors import SweeperError
from sweeper.foundation.files import read_json_lines, write_text_atomically
from sweeper.records import ConfirmationRun, IntermediateScore, Outcome, Progress, TrialSpec
from sweeper.records.layout import JobPaths, StudyPaths
from sweeper.records.outcome_files import read_outcome
from sweeper.search.arm_search import ArmSearch, Asked
from sweeper.study import retries
from sweeper.study.budgets import TrialSummary, summarize
from sweeper.study.jobs import clean_log
from sweeper.study.server_costs import ServerLedger, job_key
from sweeper.tracking.tracker import Tracker


@dataclass
class FixedTrials:
    """The confirmation runs of an arm, one after the other, in place of its search."""

    runs: Sequence[ConfirmationRun]
    """Declared runs; those whose numbers are not ``current`` stay as they are."""
    current: Sequence[int]
    """Numbers of the runs to do."""
    params: Mapping[int, dict[str, Scalar]]
    """Parameters of the arm's trials, by number."""
    files: Callable[[int], JobPaths]
    """Function that returns the files of a run."""

    def __post_init__(self) -> None:
        self._asked = [number for number in self.current if self.files(number).spec.exists()]

    def asked(self) -> dict[int, None]:
        """Return the numbers of the runs that have begun; no search waits for their ends."""
        return dict.fromkeys(self._asked)

    def ask(self) -> Asked:
        """Return the next run that has not begun."""
        number = next(number for number in self.current if number not in self._asked)
        self._asked.append(number)
        return self.resume(number)

    def resume(self, number: int) -> Asked:
        """Return a run that has begun."""
        return Asked(number, dict(self.params[self.runs[number].trial]))

    def should_continue(self, number: int, interim: IntermediateScore) -> bool:
        """Return True: winners are not pruned."""
        return True

    def tell(self, number: int, outcome: Outcome) -> None:
        """Do nothing: no search learns from a confirmation run."""


@dataclass
class ArmState:
    """One arm: its search and its progress; or its confirmation runs and theirs."""

    name: str
    method: Method
    budget: int
    search: ArmSearch | FixedTrials
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

    def files(self, paths: StudyPaths, number: int) -> JobPaths:
        """Return the files of a trial or of a confirmation run of the arm."""
        place = paths.trial if self.runs is None else paths.confirmation_run
        return place(self.name, number)


@dataclass(frozen=True)
class TrialRecorder:
    """Keeps Optuna, MLflow and a study's files consistent about the trials that ended."""

    paths: StudyPaths
    storage: str
    """Optuna's database, for messages."""
    tracker: Tracker
    secrets: frozenset[str]
    """Words that no log may hold."""

    @cached_property
    def ledger(self) -> ServerLedger:
        """What the trials owe to the servers of served models."""
        return ServerLedger(self.paths)

    def resume(self, arm: ArmState) -> None:
        """Resume what an earlier run left of an arm: recorded, finished, or interrupted trials.

        Raises:
            SweeperError: The search lacks trials that have run.
        """
        asked = arm.search.asked()
        # Runs of an earlier plan may lie next to those of this one.
        trials = self.paths.trials(arm.name) if arm.runs is None else ()
        begun = [number for number, files in trials if files.spec.exists()]
        if forgotten := [number for number in begun if number not in asked]:
            raise SweeperError(
                f"The Optuna database lacks trials of arm {arm.name} from #{forgotten[0]} on: it"
                f" has {len(asked)}, {self.paths.directory} has {len(begun)}. Restore"
                f" {self.storage}, or remove {self.paths.directory} to start anew."
            )
        for number, state in asked.items():
            arm.asked += 1
            files = arm.files(self.paths, number)
            outcome = read_outcome(files)
            if outcome is None or not files.recorded.exists():
                # Whoever saw it end may not have come to this.
                clean_log(files, self.secrets)
            reason = retries.lost_for_good(files) if outcome is None else None
            if reason is not None and (spec := _readable_spec(files)):
                outcome = retries.lost(spec, reason, files)
                write_text_atomically(files.outcome, outcome.model_dump_json(indent=1) + "\n")
            if outcome is None or not retries.is_over(outcome, files):
                arm.pending.append(number)
                continue
            is_told = state is None or state.is_finished()
            if not (files.recorded.exists() and is_told):
                spec = _read_spec(files)
                again = retries.may_be_smaller(spec, outcome, files)
                if again or retries.runs_elsewhere(outcome, files):
                    arm.pending.append(number)
                    continue
                lines, _ = read_json_lines(files.progress)
                rows = [Progress.model_validate(line) for line in lines]
                self.record(arm, spec, outcome, rows)
            arm.ended[number] = summarize(outcome)

    def record(
        self,
        arm: ArmState,
        spec: TrialSpec,
        outcome: Outcome,
        rows: Sequence[Progress] = (),
        running: Mapping[str, Job] | None = None,
    ) -> None:
        """Tell Optuna, then MLflow, then mark the trial as recorded; safe to repeat after a crash.

        The search learns the trial's device-seconds with its share of the servers' as it is now,
        without that of servers that no job used, which follows from no settings.

        Args:
            arm: The trial's arm.
            spec: The trial.
            outcome: How it ended.
            rows: Its progress, if this process has not logged it while the trial ran.
            running: Jobs that run, by key: they use the servers too.
        """
        files = arm.files(self.paths, spec.number)
        self.ledger.ended(files, outcome)
        arm.search.tell(spec.number, charge(outcome, self._share_while_used(files, running)))
        self.tracker.start_trial(spec)
        if rows:
            self.tracker.log_progress(spec, rows)
        self.tracker.finish_trial(spec, outcome, files)
        retries.discard_checkpoint(files)
        files.recorded.touch()

    def _share_while_used(self, files: JobPaths, running: Mapping[str, Job] | None) -> Shares:
        shares = self.ledger.shares(running).get(job_key(files), {})
        return {role: share._replace(idle=0.0) for role, share in shares.items()}


def _readable_spec(files: JobPaths) -> TrialSpec | None:
    try:
        return _read_spec(files)
    except (OSError, ValueError):
        return None


def _read_spec(files: JobPaths) -> TrialSpec:
    return TrialSpec.model_validate_json(files.spec.read_text(encoding="utf-8"))
