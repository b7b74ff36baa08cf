"""Paths of a study's files: the one owner of file names under ``runs/<study>/``."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from sweeper.config.names import NAME_PATTERN, is_name
from sweeper.foundation.errors import SweeperError


def own_teacher_step(arm: str) -> str:
    """Return the name of the step that scores an arm's own teacher; no arm's name has an ``@``."""
    return f"teacher@{arm}"


@dataclass(frozen=True)
class JobPaths:
    """Files of one job: a trial of an arm, or a step of the preparation."""

    directory: Path

    @property
    def spec(self) -> Path:
        """Path of the job's spec: everything that determines the result."""
        return self.directory / "spec.json"

    @property
    def progress(self) -> Path:
        """Path of the progress file, which grows while the job runs."""
        return self.directory / "progress.jsonl"

    @property
    def outcome(self) -> Path:
        """Path of the outcome; written once, atomically, as the last thing."""
        return self.directory / "outcome.json"

    @property
    def prune_decision(self) -> Path:
        """Path of the decision whether to prune a trial after an intermediate score."""
        return self.directory / "verdict.json"

    @property
    def log(self) -> Path:
        """Path of the log: everything that the job printed."""
        return self.directory / "log.txt"

    @property
    def documents(self) -> Path:
        """Path of the scores by document: task, doc_id, doc_hash, score."""
        return self.directory / "documents.jsonl"

    @property
    def test_documents(self) -> Path:
        """Path of a confirmation run's scores by document of the test suite."""
        return self.directory / "test_documents.jsonl"

    @property
    def samples(self) -> Path:
        """Path of a few prompts with the student's answers, for reading."""
        return self.directory / "samples.jsonl"

    @property
    def reference(self) -> Path:
        """Path of what an exported student answered as it was trained."""
        return self.directory / "reference.safetensors"

    @property
    def recorded(self) -> Path:
        """Path of a file that exists once Optuna and MLflow have the trial's outcome."""
        return self.directory / "recorded"

    @property
    def lost(self) -> Path:
        """Path of a note on how the attempt's process disappeared, if it did."""
        return self.directory / "lost"

    @property
    def checkpoint(self) -> Path:
        """The directory of the training's checkpoint, which outlasts an attempt."""
        return self.directory / "checkpoint"

    @property
    def ranks(self) -> Path:
        """Directory in which the processes of a trial on several devices meet while it runs."""
        return self.directory / ".trainer.ranks"

    def rank(self, number: int) -> Path:
        """Return the file in which a process next to the first reports how it ended."""
        return self.ranks / f"{number}.json"

    @property
    def lock(self) -> Path:
        """Lock file, held by the process that works in this directory."""
        return self.directory / "lock"

    def attempt(self, number: int) -> JobPaths:
        """Return the files of an attempt that did not finish."""
        return JobPaths(self.directory / "attempts" / str(number))


@dataclass(frozen=True)
class ServerPaths:
    """Files of one served model; those that let others use the server are private."""

    directory: Path

    @property
    def launch(self) -> Path:
        """Path of what was started last, and its port."""
        return self.directory / "launch.json"

    @property
    def processes(self) -> Path:
        """Path of the processes of this launch, next to ``launch``."""
        return self.directory / "processes.json"

    @property
    def key(self) -> Path:
        """Path of the API key that the server asks for."""
        return self.directory / "key"

    @property
    def lease(self) -> Path:
        """Lock file, held by the coordinator that needs the server."""
        return self.directory / "lease"

    @property
    def log(self) -> Path:
        """Path of everything that the server printed, in all of its starts."""
        return self.directory / "log.txt"

    @property
    def record(self) -> Path:
        """Path of the record of the starts, a ``ServerRecord``."""
        return self.directory / "record.json"


class LinkedPathError(SweeperError):
    """A symbolic link stands where a study keeps its files."""

    exit_code = 2

    def __init__(self, link: Path) -> None:
        super().__init__(
            f"{link}: expected a folder or a file of the study, found a symbolic link to"
            f" {os.readlink(link)}: a study writes only below its own folder."
            " To record studies elsewhere, use --runs."
        )


@dataclass(frozen=True)
class StudyPaths:
    """Files of one study."""

    runs: Path
    study: str

    def __post_init__(self) -> None:
        if not is_name(self.study):
            raise ValueError(f"A study's name must match {NAME_PATTERN}, but got {self.study!r}.")

    @property
    def directory(self) -> Path:
        """The study's own directory."""
        return self.runs / self.study

    @property
    def manifest(self) -> Path:
        """Path of the manifest: the study as first started, with versions and hardware."""
        return self.directory / "study.json"

    @property
    def preflight(self) -> Path:
        """Path of the findings of the check before the study, and of which study they are."""
        return self.directory / "preflight.json"

    @property
    def optuna(self) -> Path:
        """The SQLite file with one Optuna study per arm."""
        return self.directory / "study.db"

    @property
    def lock(self) -> Path:
        """Lock file, held by the one process that coordinates this study."""
        return self.directory / "lock"

    @property
    def mlflow(self) -> Path:
        """The default MLflow database, shared by the studies of one ``runs`` folder."""
        return self.runs / "mlflow.db"

    @property
    def mlflow_artifacts(self) -> Path:
        """Directory of MLflow's artifacts when the default database is used."""
        return self.runs / "mlflow-artifacts"

    @property
    def plan(self) -> Path:
        """Path of the plan of confirmation runs, declared before any of them is trained."""
        return self.directory / "plan.json"

    @property
    def device_faults(self) -> Path:
        """Path of the faults of devices in all runs, a ``DeviceFault`` a line."""
        return self.directory / "device_faults.jsonl"

    def check_place(self, *below: str) -> Path:
        """Return the study's directory, or one ``below`` it, after a check for symbolic links.

        Raises:
            LinkedPathError: A symbolic link stands in its place.
        """
        # A link to ``runs`` itself is the user's own way to say where studies are recorded.
        directory = self.directory
        for part in ("", *below):
            directory /= part
            if directory.is_symlink():
                raise LinkedPathError(directory)
        return directory

    def check_tree(self) -> None:
        """Check that nothing below the study's directory is a symbolic link.

        Raises:
            LinkedPathError: There is one.
        """
        waiting = [str(self.check_place())]
        while waiting:
            with suppress(FileNotFoundError), os.scandir(waiting.pop()) as entries:
                for entry in entries:
                    if entry.is_symlink():
                        raise LinkedPathError(Path(entry.path))
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(entry.path)

    def preparation(self, step: str) -> JobPaths:
        """Return the files of a step of the preparation, such as ``data`` or ``teacher@ARM``."""
        return JobPaths(self.check_place("preparation", step))

    def server(self, role: str) -> ServerPaths:
        """Return the files of a served model, such as ``teacher`` or ``student@cuda:0``."""
        return ServerPaths(self.check_place("servers", role))

    def servers(self) -> Iterator[ServerPaths]:
        """Yield the files of all served models, by name."""
        root = self.check_place("servers")
        for name in sorted(path.name for path in root.iterdir()) if root.is_dir() else ():
            yield self.server(name)

    def trial(self, arm: str, number: int) -> JobPaths:
        """Return the files of one trial."""
        return JobPaths(self._arm_place("arms", arm, f"{number:04d}"))

    def confirmation_run(self, arm: str, number: int) -> JobPaths:
        """Return the files of a winner that is trained again."""
        return JobPaths(self._arm_place("finals", arm, f"{number:04d}"))

    def trials(self, arm: str) -> Iterator[tuple[int, JobPaths]]:
        """Yield the trials of ``arm`` that have a directory, in ascending number."""
        root = self._arm_place("arms", arm)
        if root.is_dir():
            with os.scandir(root) as entries:
                # Only digits of ASCII: others are no numbers that a trial was given.
                numbered = [entry for entry in entries if re.fullmatch("[0-9]+", entry.name)]
            for entry in sorted(numbered, key=lambda entry: int(entry.name)):
                if entry.is_symlink():
                    raise LinkedPathError(Path(entry.path))
                yield int(entry.name), JobPaths(root / entry.name)

    def _arm_place(self, folder: str, arm: str, *below: str) -> Path:
        if not is_name(arm):
            raise ValueError(f"An arm's name must match {NAME_PATTERN}, but got {arm!r}.")
        return self.check_place(folder, arm, *below)
