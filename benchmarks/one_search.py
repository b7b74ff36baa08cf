"""One process that coordinates a study of idle jobs, and measures itself.

``python -m benchmarks.one_search STUDY --runs FOLDER --json FILE``, for ``benchmarks/coordinator``.
Everything but what the jobs do is as in ``sweeper run``. Nothing heavy is imported at the top,
because every job's process imports this module again.
"""

from __future__ import annotations

import argparse
import cProfile
import json
import time
from pathlib import Path
from typing import Any

EVERY = 100
"""Trials between two looks at the process's memory."""


def resident_mib() -> float:
    """Return what the process holds in main memory."""
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError("/proc/self/status has no VmRSS: this benchmark needs Linux.")


def search(study_file: Path, runs: Path, profile: Path | None) -> dict[str, Any]:
    """Run the study to its end.

    Returns:
        ``open_seconds``: the tracker's databases opened, and the preparation found done;
        ``reconcile_seconds``: an earlier process's state read, and the arms opened;
        ``search_seconds`` and ``trials``: the search itself; ``ask_seconds`` and ``tell_seconds``:
        Optuna's part of it; ``resident_mib``: memory before the first trial, after every
        ``EVERY`` trials, and after the last.
    """
    from rich.console import Console

    from benchmarks import idle_job
    from sweeper.commands.run import tracking_store
    from sweeper.config.loading import load_study
    from sweeper.execution.executor import Executor
    from sweeper.execution.local import LocalExecutor
    from sweeper.records import Outcome, TrialSpec
    from sweeper.records.layout import StudyPaths
    from sweeper.reporting.live import LiveDisplay
    from sweeper.study.collaborators import Collaborators
    from sweeper.study.coordinator import Coordinator
    from sweeper.study.lock import hold
    from sweeper.study.manifest import open_manifest
    from sweeper.study.progress import DisplayObserver
    from sweeper.study.trials import Trials
    from sweeper.tracking.mlflow_store import MlflowStore
    from sweeper.tracking.mlflow_tracker import MlflowTracker

    found: dict[str, Any] = {"ask_seconds": 0.0, "tell_seconds": 0.0, "resident_mib": []}
    found["trials"] = 0

    class Watched(DisplayObserver):
        def ended(self, spec: TrialSpec, outcome: Outcome) -> None:
            super().ended(spec, outcome)
            found["trials"] += 1
            if found["trials"] % EVERY == 0:
                found["resident_mib"].append(resident_mib())

    class MeasuredRun(Coordinator):
        def _open_arms(self, storage: Any, trials: Trials) -> None:
            found["open_seconds"] = time.perf_counter() - began
            started = time.perf_counter()
            super()._open_arms(storage, trials)
            found["reconcile_seconds"] = time.perf_counter() - started
            for arm in self.arms.values():
                for name in ("ask", "tell"):
                    setattr(arm.search, name, timed(getattr(arm.search, name), f"{name}_seconds"))

        def _run_trials(self, trials: Trials) -> None:
            found["resident_mib"].append(resident_mib())
            started = time.perf_counter()
            if profile is None:
                super()._run_trials(trials)
            else:
                profiler = cProfile.Profile()
                profiler.runcall(super()._run_trials, trials)
                profiler.dump_stats(profile)
            found["search_seconds"] = time.perf_counter() - started
            found["resident_mib"].append(resident_mib())

    def timed(call: Any, key: str) -> Any:
        def measured(*arguments: Any) -> Any:
            started = time.perf_counter()
            try:
                return call(*arguments)
            finally:
                found[key] += time.perf_counter() - started

        return measured

    study = load_study(study_file, [])
    paths = StudyPaths(runs, study.config.study)
    compute = study.config.compute
    if compute.executor == "ray":
        from sweeper.execution.ray_cluster import RayExecutor

        idle: Executor = RayExecutor(compute, [paths.directory], run=idle_job.do_nothing)
    else:
        idle = LocalExecutor(compute, run=idle_job.do_nothing)
    with hold(paths), idle as executor:
        manifest = open_manifest(study, paths, ["sweeper", "run"], 1)
        place = tracking_store(study.config.tracking, paths)
        store = MlflowStore(place.uri, place.experiment, place.artifacts)
        tracker = MlflowTracker(store, study.config.study, manifest.identity)
        began = time.perf_counter()
        with (
            (runs / "terminal.txt").open("a", encoding="utf-8") as terminal,
            LiveDisplay(Console(file=terminal, force_terminal=True, width=100)) as display,
        ):
            MeasuredRun(
                study,
                paths,
                manifest,
                runs / "cache",
                Collaborators(executor, tracker, Watched(display, study.config.study, compute)),
            ).run()
        tracker.finish_study([], "finished")
        tracker.close()
    return found


def main() -> None:
    """Run it, and write what was measured."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("study", type=Path)
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--profile", type=Path, help="Where to write what cProfile saw.")
    options = parser.parse_args()
    found = search(options.study, options.runs, options.profile)
    options.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
