"""Every error that sweeper raises on purpose, as one tree.

::

    SweeperError
    ├── ConfigError        a study, suite or command-line value is wrong (exit code 2)
    ├── PreflightError     a study cannot work, as a check finds before it begins (exit code 2)
    ├── StudyChangedError  the study file no longer fits the recorded study (exit code 2)
    ├── StudyBusyError     another process is running this study (exit code 2)
    ├── PlaceError         a file or folder cannot be read or written (exit code 2)
    ├── ServerError        a served model cannot be started, or does not stay up
    ├── FullDiskError      no space is left where something has to be written
    ├── NoDeviceError      every device of a run has failed
    └── TrialError         one job failed; carries the kind that its outcome records
        ├── BadInputError      models, data or tasks that cannot work: retrying is useless
        ├── NoAnswerError      a served model does not answer; running again resumes
        └── DivergedError      the loss is not finite any more, or training has collapsed

The command line prints a ``SweeperError`` as a message, without a traceback.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from sweeper.foundation.secrets import redact_option


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with a file: where, and what was expected and found."""

    source: str
    """The file, or the command-line option, that holds the value."""
    message: str
    path: str = ""
    """The key path, such as ``arms.gkd.search.lmbda.low``; empty for the file as a whole."""
    line: int | None = None
    """Counted from 1."""
    column: int | None = None
    """Counted from 1."""

    @property
    def place(self) -> str:
        """File, line, column and key, as far as they are known."""
        # An option is quoted as it was typed, and may hold a password.
        place = redact_option(self.source) if self.source.startswith("--") else self.source
        if self.line is not None:
            place += f":{self.line}:{self.column}"
        return f"{place}: {self.path}" if self.path else place

    def __str__(self) -> str:
        return f"{self.place}: {self.message}"


class SweeperError(Exception):
    """The root of every error that sweeper raises on purpose."""

    exit_code = 1


class ConfigError(SweeperError):
    """A file or an option that the user wrote is wrong; lists every problem found."""

    exit_code = 2

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))


class PreflightError(SweeperError):
    """A study cannot work as written; lists everything that keeps it from being run."""

    exit_code = 2


class StudyChangedError(SweeperError):
    """The study file differs from the recorded study in a way that cannot be continued."""

    exit_code = 2


class StudyBusyError(SweeperError):
    """Another process holds this study."""

    exit_code = 2


class PlaceError(SweeperError):
    """A file or folder cannot be read or written: read-only, in the way, or too long a name."""

    exit_code = 2

    def __init__(self, place: object, reason: str) -> None:
        super().__init__(f"{place}: cannot be read or written: {reason}")


class ServerError(SweeperError):
    """A served model cannot be started, or does not stay up; the same command resumes."""


class FullDiskError(SweeperError):
    """No space is left where something has to be written; with room, the same command resumes."""

    def __init__(self, message: str) -> None:
        super().__init__(f"{message}, and run the same command again to resume.")


class NoDeviceError(SweeperError):
    """Every device failed and was set aside; once they work, the same command resumes.

    Args:
        devices: Names of the devices.
        last: Last fault, in words.
    """

    def __init__(self, devices: Sequence[str], last: str) -> None:
        were = "was" if len(devices) == 1 else "were"
        super().__init__(
            f"No device is left that a job can run on: {', '.join(devices)} {were} set aside after"
            f" faults. The last: {last.rstrip('.')}. Nothing that has ended is lost: run the same"
            " command again to resume. It tries all devices anew."
        )


class TrialError(SweeperError):
    """A job failed for a reason that we can name."""

    kind = "bug"


class BadInputError(TrialError):
    """The models, the data or the tasks cannot work as written.

    Args:
        message: Text of what was expected and what was found.
        key: The key of the study file that is to blame, such as ``("data", "train", "path")``.
    """

    kind = "bad_input"

    def __init__(self, message: str, key: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.key = key


@contextmanager
def blaming(*key: str) -> Iterator[None]:
    """Blame ``key`` of the study file for bad input in the block that blames no key itself."""
    try:
        yield
    except BadInputError as error:
        error.key = error.key or key
        raise


class NoAnswerError(TrialError):
    """A served model does not answer, which is no fault of the job that asks it."""

    kind = "server"


class DivergedError(TrialError):
    """Training left the finite numbers, or collapsed.

    Args:
        message: Text of what was found.
        remedies: What to try; none: what helps against any divergence.
    """

    kind = "diverged"

    def __init__(self, message: str, remedies: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.remedies = remedies
