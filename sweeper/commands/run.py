"""``sweeper run``: opens, uses and closes everything that a study needs."""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from sweeper.commands.check.gate import pass_preflight
from sweeper.commands.check.places import check_drivers, check_folders
from sweeper.config.loading import LoadedStudy
from sweeper.config.names import DEFAULT_RUNS
from sweeper.config.study import StudyConfig, TrackingConfig
from sweeper.foundation import disk
from sweeper.foundation.cache import default_root
from sweeper.foundation.database_retry import Retry
from sweeper.foundation.databases import is_database, sqlite_url, with_driver
from sweeper.foundation.secrets import redact_command
from sweeper.records import Outcome
from sweeper.records.layout import StudyPaths
from sweeper.records.study_record import StudyRecord
from sweeper.reporting.live import LiveDisplay, LiveState
from sweeper.reporting.markdown.report import write_report
from sweeper.reporting.report_data import ReportData
from sweeper.reporting.summary import show_study
from sweeper.reporting.text.terminal_escape import visible
from sweeper.study.collaborators import Collaborators
from sweeper.study.coordinator import Coordinator
from sweeper.study.device_precision import kinds_of, with_precision
from sweeper.study.executors import make_executor
from sweeper.study.interrupts import Interrupted, listening
from sweeper.study.lock import hold
from sweeper.study.manifest import command_line, input_files, open_manifest
from sweeper.study.progress import DisplayObserver
from sweeper.study.results import all_failed
from sweeper.study.served import make_served
from sweeper.study.served_models import trial_devices
from sweeper.study.start_settings import start_settings
from sweeper.tracking.mlflow_store import MlflowStore
from sweeper.tracking.mlflow_tracker import MlflowTracker
from sweeper.tracking.tracker import StudyEnd
from sweeper.tracking.verdict_points import verdict_points

FAILED, INTERRUPTED = 1, 130


@dataclass(frozen=True)
class TrackingStore:
    """The MLflow store of a study."""

    uri: str
    experiment: str
    artifacts: str | None
    """Location of files, for databases; a server has its own."""


def tracking_store(tracking: TrackingConfig, paths: StudyPaths) -> TrackingStore:
    """Return the study's MLflow store: its own ``tracking.uri``, or the SQLite file of ``runs``."""
    experiment = tracking.experiment or paths.study
    uri = with_driver(tracking.uri or sqlite_url(paths.mlflow))
    artifacts = paths.mlflow_artifacts.resolve().as_uri() if is_database(uri) else None
    return TrackingStore(uri, experiment, artifacts)


def run_study(
    study: LoadedStudy, *, runs: Path, reports: Path, cache: Path | None, out: Console
) -> int:
    """Run a study to its report.

    The cache is by default the user's. The exit code is 0, 1 if every trial failed, or 130 if the
    user stopped it.

    Raises:
        SweeperError: What the user wrote cannot work, the preparation failed, or the disk is full.
    """
    config = study.config
    check_drivers(study)
    paths = StudyPaths(runs, config.study)
    cache = cache or default_root()
    places = (paths.directory, reports / config.study, cache)
    check_folders(places)
    retry = Retry()
    files, devices = input_files(study), trial_devices(study)
    executor = make_executor(config.compute, paths, cache, files, study.file, devices)
    with disk.explained(*places), hold(paths), executor:
        study, kept = with_precision(study, paths, kinds_of(study, executor))
        threads = executor.next_resources(paths.directory).threads
        starts = start_settings(study, paths)
        manifest = open_manifest(study, paths, command_line(), threads, starts)
        location = tracking_store(config.tracking, paths)
        store = MlflowStore(location.uri, location.experiment, location.artifacts, retry=retry)
        tracker = MlflowTracker(store, config.study, manifest.identity)
        served = make_served(study, paths, manifest, executor)
        try:
            with (
                LiveDisplay(out) as display,
                listening(display.message) as stop,
                served,
            ):
                display.update(LiveState(config.study, time.time(), (), preparation="starting"))

                def preflight(outcome: Outcome) -> None:
                    pass_preflight(study, paths, manifest, outcome, display)

                observer = _observer(display, config)
                if kept is not None:
                    display.message(kept)
                collaborators = Collaborators(
                    executor, tracker, observer, stop, retry, preflight, served
                )
                record = Coordinator(study, paths, manifest, cache, collaborators).run()
            retry.while_waiting = lambda: None
            failed = all_failed(record)
            written = _report(record, reports / config.study, out, _study_options(study, runs))
            state: StudyEnd = "failed" if failed else "finished"
            tracker.log_server_costs(record)
            tracker.finish_study(written, state, verdict_points(record))
        except (Interrupted, KeyboardInterrupt):
            retry.end()
            # A database that does not answer must not keep the user from leaving.
            with suppress(Exception):
                tracker.finish_study([], "interrupted")
            message = f"Stopped. Run the same command to resume: {redact_command(command_line())}"
            out.print(message, soft_wrap=True, markup=False)
            return INTERRUPTED
        except BaseException:
            retry.end()
            # The first error matters more than a second one about recording it.
            with suppress(Exception):
                tracker.finish_study([], "failed")
            raise
        finally:
            tracker.close()
    if failed:
        _explain_failures(record, paths, out)
        return FAILED
    return 0


def _observer(display: LiveDisplay, config: StudyConfig) -> DisplayObserver:
    runs = config.confirm.top_k * config.confirm.seeds if config.confirms() else 0
    return DisplayObserver(display, config.study, config.compute, runs, config.compare_at)


def _study_options(study: LoadedStudy, runs: Path) -> str:
    """Return the options with which another command finds the same study."""
    options = [str(study.path), *([] if runs == DEFAULT_RUNS else ["--runs", str(runs)])]
    for override in study.overrides:
        options += ["--set", override]
    return redact_command(options)


def _report(record: StudyRecord, directory: Path, out: Console, options: str) -> list[Path]:
    data = ReportData.of(record)
    show_study(data, out)
    files = write_report(data, directory)
    out.print(f"Report: {files[0]}", soft_wrap=True, markup=False)
    command = f"sweeper ui {options}"
    out.print(f"Every trial in the MLflow UI: {command}", soft_wrap=True, markup=False)
    return files


def _explain_failures(record: StudyRecord, paths: StudyPaths, out: Console) -> None:
    out.print("Every trial failed. The first of each arm:", style="bold red")
    for arm in record.arms:
        failed = next((trial for trial in arm.trials if trial.outcome), None)
        if failed and failed.outcome and failed.outcome.failure:
            failure = failed.outcome.failure
            log = paths.trial(arm.name, failed.number).log
            message = visible(failure.told())
            text = f"  {arm.name} #{failed.number}: {message} (log: {log})"
            out.print(text, markup=False, emoji=False)
