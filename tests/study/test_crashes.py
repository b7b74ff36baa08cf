"""A coordinator that is killed at any call of its tracker, and is started again.

Jobs are done by an executor that writes the files a job would write, so that a study takes a
fraction of a second; everything else is real.
"""

from __future__ import annotations

import copy
import itertools
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy

from sweeper.execution.executor import Busy, Finished, Spec
from sweeper.foundation.cache import directory_hash
from sweeper.records import TrialSpec
from tests.support.memory_tracker import MemoryStore, MemoryTracker
from tests.support.writing_executor import ARMS, WritingExecutor, check, go_on, params

WriteStudy = Callable[..., Path]


class WatchedTracker(MemoryTracker):
    """Calls ``watch`` before and after each of its calls: where a process may be killed."""

    def __init__(self, store: MemoryStore, watch: Callable[[str], None]) -> None:
        super().__init__("tiny", store)
        for name in (
            "open_study",
            "log_data",
            "log_baseline",
            "open_arm",
            "start_trial",
            "log_progress",
            "finish_trial",
        ):
            setattr(self, name, self._watched(name, getattr(self, name), watch))

    @staticmethod
    def _watched(
        name: str, call: Callable[..., None], watch: Callable[[str], None]
    ) -> Callable[..., None]:
        def watched(*arguments: Any) -> None:
            watch(f"before {name}")
            call(*arguments)
            watch(f"after {name}")

        return watched


@dataclass(frozen=True)
class Remains:
    """What a process that is killed leaves behind."""

    place: str
    runs: Path
    store: MemoryStore
    done: frozenset[tuple[str, int]]
    """The trials that had an outcome."""


@pytest.fixture
def study_file(write_study: WriteStudy) -> Iterator[Path]:
    def hurry(connection: Any, record: Any) -> None:
        connection.execute("PRAGMA synchronous = OFF")

    # No power fails here, so nothing needs to reach the disk at once.
    sqlalchemy.event.listen(sqlalchemy.Engine, "connect", hurry)
    # After one random trial, what TPE samples depends on all that it was told before.
    yield write_study(trials=3, sampler={"type": "tpe", "startup_trials": 1}, arms=ARMS)
    sqlalchemy.event.remove(sqlalchemy.Engine, "connect", hurry)


@pytest.mark.slow
def test_a_study_that_is_killed_anywhere_comes_to_the_same_trials(
    study_file: Path, tmp_path: Path
) -> None:
    store, executor = MemoryStore(), WritingExecutor()
    remains: list[Remains] = []
    seen: set[tuple[str, str]] = set()

    def watch(place: str) -> None:
        copied = tmp_path / "remains" / str(len(remains))
        shutil.rmtree(copied, ignore_errors=True)
        shutil.copytree(tmp_path / "runs", copied)
        state = (directory_hash(copied), repr(store.runs))
        if state in seen:
            return
        seen.add(state)
        done = [path.parts[-3:-1] for path in copied.glob("tiny/arms/*/*/outcome.json")]
        trials = frozenset((arm, int(number)) for arm, number in done)
        place = f"{place}, {len(executor.submitted)} trials submitted, {len(trials)} ended"
        remains.append(Remains(place, copied, copy.deepcopy(store), trials))

    whole = go_on(study_file, WatchedTracker(store, watch), executor)
    check(study_file, whole, store)
    assert len(executor.submitted) == 4
    assert len(remains) > 30

    for left in remains:
        shutil.rmtree(tmp_path / "runs")
        shutil.copytree(left.runs, tmp_path / "runs")
        executor = WritingExecutor()
        record = go_on(study_file, MemoryTracker("tiny", left.store), executor)
        assert params(record) == params(whole), left.place
        assert set(executor.submitted) == set(params(whole)) - left.done, left.place
        check(study_file, record, left.store)


class Killed(BaseException):
    """The process ends here."""


@pytest.mark.slow
def test_a_study_that_is_killed_again_and_again_gets_done(study_file: Path) -> None:
    store, executor = MemoryStore(), WritingExecutor()
    for allowed in itertools.count():
        calls = itertools.count()

        def watch(place: str, calls: Iterator[int] = calls, allowed: int = allowed) -> None:
            if next(calls) == allowed:
                raise Killed

        try:
            record = go_on(study_file, WatchedTracker(store, watch), executor)
            break
        except Killed:
            executor.stop()
    assert allowed > 20
    check(study_file, record, store)
    assert set(executor.submitted) == set(params(record))


class TakenExecutor(WritingExecutor):
    """What is free may be taken by others before a job is submitted."""

    refused: int = 0

    def submit(self, spec: Spec) -> None:
        if self.refused < 3 and (isinstance(spec, TrialSpec) or not self.refused):
            self.refused += 1
            raise Busy
        super().submit(spec)

    def wait(self, timeout: float) -> list[Finished]:
        return super().wait(timeout) if self._running else []


def test_trials_wait_when_others_take_what_was_free(study_file: Path) -> None:
    executor = TakenExecutor()
    store = MemoryStore()
    record = go_on(study_file, MemoryTracker("tiny", store), executor)
    assert executor.refused == 3
    check(study_file, record, store)
    assert len(executor.submitted) == len(set(executor.submitted)) == 4
