"""What lies where in a study: the one owner of file names under ``runs/<study>/``."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from sweeper.config.names import NAME_PATTERN, is_name
from sweeper.foundation.errors import SweeperError


@dataclass(frozen=True)
class JobPaths:
    """The files of one job: a trial of an arm, or a step of the preparation."""

    directory: Path

    @property
    def spec(self) -> Path:
        """What to do: everything that determines the result."""
        return self.directory / "spec.json"

    @property
    def progress(self) -> Path:
        """What is happening, appended while the job runs."""
        return self.directory / "progress.jsonl"

    @property
    def outcome(self) -> Path:
        """How it ended; written once, atomically, as the last thing."""
        return self.directory / "outcome.json"

    @property
    def prune_decision(self) -> Path:
        """Whether a trial that was scored in its training goes on; written by the coordinator."""
        return self.directory / "verdict.json"

    @property
    def log(self) -> Path:
        """Everything that the job printed."""
        return self.directory / "log.txt"

    @property
    def documents(self) -> Path:
        """Scores per document: task, doc_id, doc_hash, score."""
        return self.directory / "documents.jsonl"

    @property
    def test_documents(self) -> Path:
        """The same on the test suite, of a winner that was trained again."""
        return self.directory / "test_documents.jsonl"

    @property
    def samples(self) -> Path:
        """A few prompts with the student's answers, for reading."""
        return self.directory / "samples.jsonl"

    @property
    def recorded(self) -> Path:
        """Exists once Optuna and MLflow know how the trial ended."""
        return self.directory / "recorded"

    @property
    def lost(self) -> Path:
        """How the attempt's process disappeared, if it did."""
        return self.directory / "lost"

    @property
    def checkpoint(self) -> Path:
        """The directory of the training's checkpoint, which outlasts an attempt."""
        return self.directory / "checkpoint"

    @property
    def ranks(self) -> Path:
        """Where the processes of a trial on several devices meet; only while it runs."""
        return self.directory / ".trainer.ranks"

    def rank(self, number: int) -> Path:
        """How one of these processes ended, beside the first."""
        return self.ranks / f"{number}.json"

    @property
    def lock(self) -> Path:
        """Held by the process that works in this directory."""
        return self.directory / "lock"

    def attempt(self, number: int) -> JobPaths:
        """Where the files of an attempt that did not finish are kept."""
        return JobPaths(self.directory / "attempts" / str(number))


class LinkedPathError(SweeperError):
    """A symbolic link stands where a study keeps its files."""

    exit_code = 2

    def __init__(self, link: Path) -> None:
        super().__init__(
            f"{link}: expected a folder or a file of the study, found a symbolic link to"
            f" {os.readlink(link)}: a study writes only below its own folder."
            " (To record studies elsewhere, use --runs.)"
        )


@dataclass(frozen=True)
class StudyPaths:
    """The files of one study."""

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
        """The study as it was first started, with versions, revision and hardware."""
        return self.directory / "study.json"

    @property
    def preflight(self) -> Path:
        """What was known of the study before it began, and of which study it was known."""
        return self.directory / "preflight.json"

    @property
    def optuna(self) -> Path:
        """The SQLite file with one Optuna study per arm."""
        return self.directory / "study.db"

    @property
    def lock(self) -> Path:
        """Held by the one process that coordinates this study."""
        return self.directory / "lock"

    @property
    def mlflow(self) -> Path:
        """The default MLflow database, shared by the studies of one ``runs`` folder."""
        return self.runs / "mlflow.db"

    @property
    def mlflow_artifacts(self) -> Path:
        """Where MLflow keeps artifacts when the default database is used."""
        return self.runs / "mlflow-artifacts"

    def check_place(self, *below: str) -> Path:
        """The study's directory, or one ``below`` it; made sure to lie where its name says.

        Raises:
            SweeperError: A symbolic link in its place leads to other files than the study's.
        """
        # A link to ``runs`` itself is the user's own way to say where studies are recorded.
        directory = self.directory
        for part in ("", *below):
            directory /= part
            if directory.is_symlink():
                raise LinkedPathError(directory)
        return directory

    def check_tree(self) -> None:
        """Make sure that nothing below the study's directory is a symbolic link.

        Raises:
            SweeperError: There is one.
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
        """The files of one step of the preparation: ``data``, ``teacher`` or ``student``."""
        return JobPaths(self.check_place("preparation", step))

    def trial(self, arm: str, number: int) -> JobPaths:
        """The files of one trial."""
        if not is_name(arm):
            raise ValueError(f"An arm's name must match {NAME_PATTERN}, but got {arm!r}.")
        return JobPaths(self.check_place("arms", arm, f"{number:04d}"))

    @property
    def plan(self) -> Path:
        """What is trained again and scored on the test suite, declared before any of it is."""
        return self.directory / "plan.json"

    def confirmation_run(self, arm: str, number: int) -> JobPaths:
        """The files of a winner that is trained again."""
        if not is_name(arm):
            raise ValueError(f"An arm's name must match {NAME_PATTERN}, but got {arm!r}.")
        return JobPaths(self.check_place("finals", arm, f"{number:04d}"))

    def trials(self, arm: str) -> Iterator[tuple[int, JobPaths]]:
        """The trials of ``arm`` that have a directory, in ascending number."""
        if not is_name(arm):
            raise ValueError(f"An arm's name must match {NAME_PATTERN}, but got {arm!r}.")
        root = self.check_place("arms", arm)
        if root.is_dir():
            with os.scandir(root) as entries:
                # Only digits of ASCII: others are no numbers that a trial was given.
                numbered = [entry for entry in entries if re.fullmatch("[0-9]+", entry.name)]
            for entry in sorted(numbered, key=lambda entry: int(entry.name)):
                if entry.is_symlink():
                    raise LinkedPathError(Path(entry.path))
                yield int(entry.name), JobPaths(root / entry.name)
