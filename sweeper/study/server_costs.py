"""The jobs and servers of a study, read from its files, for the servers' costs."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path

from sweeper.analysis.server_costs import Attempt, Job, Shares, share_out
from sweeper.foundation.files import read_json_lines
from sweeper.records import Outcome, PreparationSpec, ServerRecord, TrialSpec
from sweeper.records.layout import JobPaths, StudyPaths
from sweeper.records.outcome_files import read_outcome, read_state
from sweeper.serving.start_log import read_server_record

_PREPARATION = "preparation"


def job_key(files: JobPaths) -> str:
    """Return what identifies a job in its study: ``arms/gkd/0003``, ``preparation/teacher``."""
    parts = files.directory.parts
    return "/".join(parts[-2:] if parts[-2] == _PREPARATION else parts[-3:])


def read_servers(paths: StudyPaths) -> tuple[ServerRecord, ...]:
    """Read the records of all servers that the study has started."""
    records = (read_server_record(files.record) for files in paths.servers())
    return tuple(record for record in records if record is not None)


def read_jobs(paths: StudyPaths, known: Mapping[str, Outcome] | None = None) -> dict[str, Job]:
    """Read every job of the study, by its key; ``known`` are outcomes that were read already."""
    jobs = {}
    for files in _all_files(paths):
        key = job_key(files)
        outcome, running = known.get(key) if known else None, False
        if outcome is None:
            state, outcome = read_state(files)
            running = state == "running"
        jobs[key] = read_job(files, outcome, running=running)
    return jobs


def read_job(files: JobPaths, outcome: Outcome | None, *, running: bool = False) -> Job:
    """Read a job's attempts, and how long it waited for servers.

    Only a job with an outcome has a part in the costs, and one that runs is expected to have.
    """
    attempts = []
    waited: dict[str, float] = {}
    if outcome is not None:
        attempts.append(_finished(outcome, files))
        waited |= outcome.cost.served
    else:
        attempts += _unfinished(files, running=running)
    if outcome is None or outcome.attempt > 1:
        for path in sorted(files.directory.glob("attempts/*")):
            earlier = JobPaths(path)
            before = read_outcome(earlier)
            if before is None:
                attempts += _unfinished(earlier)
                continue
            attempts.append(_finished(before, earlier))
            if outcome is not None and outcome.earlier_seconds:
                for role, seconds in before.cost.served.items():
                    waited[role] = waited.get(role, 0.0) + seconds
    # A job that failed has not come to where it reports its waits; a lost one costs nothing.
    silent = running or (_has_failed(outcome) and not waited)
    return Job(tuple(attempts), None if silent else waited, str(files.directory.parent))


def running_job(spec: TrialSpec | PreparationSpec, started: float) -> tuple[str, Job]:
    """Return the key and the attempt of a job that has run since ``started``."""
    files = JobPaths(Path(spec.place.directory))
    attempt = Attempt(started, time.time(), spec.place.devices or (spec.place.device,))
    return job_key(files), Job((attempt,), None, str(files.directory.parent))


def _all_files(paths: StudyPaths) -> Iterator[JobPaths]:
    for pattern in ("preparation/*", "arms/*/*", "finals/*/*"):
        for directory in sorted(paths.check_place().glob(pattern)):
            if (directory / "spec.json").is_file():
                yield JobPaths(directory)


def _has_failed(outcome: Outcome | None) -> bool:
    failure = outcome.failure if outcome is not None else None
    return failure is not None and failure.kind != "lost"


def _finished(outcome: Outcome, files: JobPaths) -> Attempt:
    devices = (outcome.device,) if outcome.devices == 1 else _devices(files)
    return Attempt(outcome.started, outcome.finished, devices, outcome.host)


def _unfinished(files: JobPaths, *, running: bool = False) -> list[Attempt]:
    """Return an attempt without an outcome, as long as its progress tells of it."""
    rows, _ = read_json_lines(files.progress)
    times = [float(row["time"]) for row in rows if "time" in row]
    if not times:
        return []
    return [Attempt(times[0], time.time() if running else times[-1], _devices(files))]


def _devices(files: JobPaths) -> tuple[str, ...]:
    with suppress(OSError, ValueError, LookupError, TypeError):
        place = json.loads(files.spec.read_bytes())["place"]
        return tuple(place.get("devices") or (place["device"],))
    return ()


class ServerLedger:
    """What a study's jobs owe to its servers while it runs.

    Nothing is read of a study without servers. The owner tells it of each job that ends.

    Args:
        paths: The study's files.
    """

    def __init__(self, paths: StudyPaths) -> None:
        self._paths = paths
        self._jobs: dict[str, Job] | None = None
        self._shares: Mapping[str, Shares] | None = None

    def ended(self, files: JobPaths, outcome: Outcome) -> None:
        """Note how a job ended."""
        self._shares = None
        if self._jobs is not None:
            self._jobs[job_key(files)] = read_job(files, outcome)

    def shares(self, running: Mapping[str, Job] | None = None) -> Mapping[str, Shares]:
        """Return the jobs' shares by key, as they were when the last job ended.

        ``running`` jobs are taken to wait for as much of their time as those of their group.
        """
        if self._shares is None:
            servers = read_servers(self._paths)
            if servers and self._jobs is None:
                self._jobs = read_jobs(self._paths)
            jobs = {**(self._jobs or {}), **(running or {})}
            self._shares = share_out(servers, jobs).shares
        return self._shares
