"""Studies run by the command line in processes of their own, and what they leave behind."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna
import pytest
from mlflow.tracking import MlflowClient

from sweeper.records import Outcome, TrialSpec
from sweeper.records.layout import JobPaths, StudyPaths
from sweeper.records.outcome_files import read_outcome
from tests.support.waiting import wait_until

DRIVER = Path(__file__).resolve().with_name("kill_driver.py")
_TAG = "SWEEPER_TEST_TAG"


@dataclass
class WholeStudy:
    """The study ``tiny`` in a directory that holds its file, ``runs`` and ``cache``."""

    directory: Path
    runs: Path = Path("runs")
    cache: Path = Path("cache")
    tag: str = field(default_factory=lambda: uuid.uuid4().hex)
    """In the environment of every process of this study, to find them by."""
    limit: float = 280.0
    """Seconds that a command may take, also on a machine with much to do."""

    @property
    def paths(self) -> StudyPaths:
        return StudyPaths(self.directory / self.runs, "tiny")

    def copy(self, directory: Path) -> WholeStudy:
        """The same study in another directory, not begun."""
        directory.mkdir(parents=True, exist_ok=True)
        for path in self.directory.glob("*.yaml"):
            shutil.copy(path, directory)
        return WholeStudy(directory, limit=self.limit)

    def start(
        self, *options: str, kill: Sequence[str] = (), command: str = "run"
    ) -> subprocess.Popen[str]:
        """Start ``sweeper run``; ``kill`` is where the driver ends it."""
        program = [str(DRIVER), *kill] if kill else ["-m", "sweeper"]
        places = ["--runs", str(self.runs)]
        if command == "run":
            places += ["--cache-dir", str(self.cache)]
        return subprocess.Popen(
            [sys.executable, *program, command, "study.yaml", *places, *options],
            cwd=self.directory,
            env={**os.environ, _TAG: self.tag},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            preexec_fn=_hear_interrupts,
        )

    def run(
        self, *options: str, kill: Sequence[str] = (), command: str = "run"
    ) -> subprocess.CompletedProcess[str]:
        """The same, to its end; no process of it is left then."""
        return self.end(self.start(*options, kill=kill, command=command))

    def make(self, command: str, *options: str) -> subprocess.CompletedProcess[str]:
        """A command that needs no study yet."""
        program = [sys.executable, "-m", "sweeper", command, *options]
        return subprocess.run(program, cwd=self.directory, capture_output=True, text=True)

    def end(self, process: subprocess.Popen[str]) -> subprocess.CompletedProcess[str]:
        """Wait for the end of ``process`` and of every process that it has started."""
        with process:
            out, err = process.communicate(timeout=self.limit)
        wait_until(lambda: not self.processes(), f"its processes to end: {self.processes()}")
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def run_until(
        self,
        happened: Callable[[], bool],
        number: signal.Signals = signal.SIGKILL,
        *,
        group: bool = False,
    ) -> subprocess.CompletedProcess[str]:
        """Run it, and signal it (or its process group) once ``happened``, unless it ends before."""
        process = self.start()
        wait_until(lambda: process.poll() is not None or happened(), "the moment to signal")
        if process.poll() is None:
            (os.killpg if group else os.kill)(process.pid, number)
        return self.end(process)

    def run_for(self, seconds: float) -> subprocess.CompletedProcess[str]:
        """Run it, and kill it after that time, unless it ends before."""
        process = self.start()
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.kill()
        return self.end(process)

    def processes(self) -> dict[int, str]:
        """The command lines of the study's processes that have not ended, by process id."""
        found = {}
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and _environment(entry).get(_TAG) == self.tag:
                command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                if "zombie" not in (entry / "status").read_text():
                    found[int(entry.name)] = command
        return found

    def workers(self) -> list[int]:
        """The process ids of its jobs: each leads a session, and is not the command itself."""
        return [
            number
            for number, command in self.processes().items()
            if os.getsid(number) == number and "study.yaml" not in command
        ]

    def trial(self, arm: str, number: int) -> JobPaths:
        return self.paths.trial(arm, number)

    def trials(self) -> dict[str, JobPaths]:
        """The directories of trials, by ``arm/number``."""
        found = sorted((self.paths.directory / "arms").glob("*/*/"))
        return {"/".join(path.parts[-2:]): JobPaths(path) for path in found}

    def finals(self) -> dict[str, JobPaths]:
        """The directories of winners that are trained again, by ``finals/arm/number``."""
        found = sorted((self.paths.directory / "finals").glob("*/*/"))
        return {"/".join(path.parts[-3:]): JobPaths(path) for path in found}

    def outcomes(self) -> dict[str, Outcome | None]:
        return {name: read_outcome(files) for name, files in self.trials().items()}

    def results(self) -> dict[str, Any]:
        """What must not depend on interruptions: parameters, scores, documents and curves.

        Of trials, and of the winners that are trained again.
        """
        found: dict[str, Any] = {}
        for name, files in {**self.trials(), **self.finals()}.items():
            spec = TrialSpec.model_validate_json(files.spec.read_text(encoding="utf-8"))
            outcome = read_outcome(files)
            assert outcome is not None, name
            assert outcome.scores is not None, outcome.failure
            scores = outcome.scores.model_copy(update={"seconds": 0.0})
            curve = {key: v for key, v in outcome.curve.items() if "second" not in key}
            documents = files.documents.read_text(encoding="utf-8")
            if spec.final is not None:
                documents += files.test_documents.read_text(encoding="utf-8")
            found[name] = (spec.params, spec.settings, scores, documents, curve)
        return found

    def mlflow_runs(self) -> list[Any]:
        client = MlflowClient(f"sqlite:///{self.paths.mlflow.resolve()}")
        [experiment] = [e for e in client.search_experiments() if e.name == "tiny"]
        return list(client.search_runs([experiment.experiment_id]))

    def check(self, done: subprocess.CompletedProcess[str]) -> None:
        """That the study is complete: files, Optuna and MLflow tell of the same trials, once."""
        assert done.returncode == 0, done.stdout + done.stderr
        assert "Traceback" not in done.stderr
        expected = {name: outcome for name, outcome in self.outcomes().items() if outcome}
        assert list(expected) == list(self.trials())
        told = {}
        for study in optuna.get_all_study_summaries(storage := f"sqlite:///{self.paths.optuna}"):
            for trial in optuna.load_study(study_name=study.study_name, storage=storage).trials:
                told[f"{study.study_name.removeprefix('tiny/')}/{trial.number:04d}"] = trial
        assert list(sorted(told)) == list(expected)
        runs = self.mlflow_runs()
        assert {run.info.status for run in runs} == {"FINISHED"}
        tracked = {}
        for run in runs:
            tags = run.data.tags
            if tags["sweeper.kind"] == "trial":
                tracked[f"{tags['sweeper.arm']}/{int(tags['sweeper.trial']):04d}"] = run
        finals = [run for run in runs if run.data.tags["sweeper.kind"] == "final"]
        assert len(finals) == len(list(self.paths.directory.glob("finals/*/*/recorded")))
        arms = {name.split("/")[0] for name in tracked}
        assert len(runs) == len(tracked) + len(finals) + len(arms) + 1
        assert sorted(tracked) == list(expected)
        for name, outcome in expected.items():
            assert outcome.scores is not None, (name, outcome.failure)
            assert told[name].state.name == "COMPLETE"
            assert told[name].value == outcome.scores.score
            assert tracked[name].data.metrics["score/selection"] == outcome.scores.score
            assert self.trials()[name].recorded.exists()
        report = self.directory / "reports" / "tiny" / "report.md"
        assert report.read_text(encoding="utf-8").startswith("# tiny")
        assert leftovers(self.directory) == []


def leftovers(directory: Path) -> list[str]:
    """Files and folders under temporary names."""
    names = re.compile(
        r"\.trainer\.|\.new$|\.[\w.-]+\.[0-9a-f]{32}$|\.[0-9a-f]{32}\.\w{8}$|\.tmp|-journal$"
    )
    found = (path.relative_to(directory) for path in directory.rglob("*"))
    return sorted(str(path) for path in found if names.search(path.name))


def wait_beside(process: subprocess.Popen[str], happened: Callable[[], bool]) -> None:
    """Look until it has happened; fails when ``process`` ends before."""
    while not happened():
        try:
            process.wait(0.02)
        except subprocess.TimeoutExpired:
            continue
        pytest.fail(f"ended early with {process.returncode}")


def _hear_interrupts() -> None:
    """A shell's background jobs ignore Ctrl-C, and so does what they start."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def _environment(entry: Path) -> dict[str, str]:
    try:
        text = (entry / "environ").read_bytes().decode(errors="replace")
    except OSError:
        return {}
    return dict(line.split("=", 1) for line in text.split("\0") if "=" in line)
