"""The places that a study reads and writes: folders, databases, a tracking server."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from sweeper.analysis.findings import Finding
from sweeper.config.loading import LoadedStudy
from sweeper.foundation.databases import NO_DRIVER, lacks_driver
from sweeper.foundation.errors import ConfigError, Problem, SweeperError
from sweeper.search.storage import reach_storage
from sweeper.study.served_models import server_problems
from sweeper.tracking.mlflow_store import reach_store


def check_drivers(study: LoadedStudy) -> None:
    """Raise a ``ConfigError`` if a library for a database of the study is missing."""
    if problems := _missing_drivers(study):
        raise ConfigError(problems)


def check_folders(folders: Sequence[Path]) -> None:
    """Raise a ``ConfigError`` if a study could not write to its folders."""
    if problems := list(_closed(folders)):
        raise ConfigError(problems)


def place_findings(
    study: LoadedStudy, folders: Sequence[Path], differences: Sequence[str]
) -> list[Finding]:
    """Report what ``sweeper run`` would refuse about the places of a study.

    Nothing is written there. A study that runs now is not reported: it will end.

    Args:
        study: The study.
        folders: Folders that the study writes to, which need not exist.
        differences: What changed in the study since its first trial, in words.
    """
    found = [_of_problem("folders", problem) for problem in _closed(folders)]
    if differences:
        message = (
            f"was started differently ({'; '.join(differences)}); give it another name, or undo the"
            " change"
        )
        found.append(_of_problem("study file", study.file.problem(("study",), message)))
    found += [_of_problem("served models", problem) for problem in server_problems(study)]
    if missing := _missing_drivers(study):
        return [*found, *(_of_problem("databases", problem) for problem in missing)]
    config = study.config
    if config.storage is not None:
        found += _answer(study, "storage", ("storage",), reach_storage, config.storage)
    if config.tracking.uri is not None:
        found += _answer(study, "tracking", ("tracking", "uri"), reach_store, config.tracking.uri)
    return found


def _answer(
    study: LoadedStudy, what: str, key: tuple[str, ...], reach: Callable[[str], None], url: str
) -> Iterator[Finding]:
    """Yield what is wrong with a database or a server."""
    try:
        reach(url)
    except SweeperError as error:
        yield _of_problem(what, study.file.problem(key, str(error).splitlines()[0]))


def _of_problem(what: str, problem: Problem) -> Finding:
    return Finding(state="error", what=what, detail=problem.message, place=problem.place)


def _missing_drivers(study: LoadedStudy) -> list[Problem]:
    config = study.config
    urls = {("storage",): config.storage, ("tracking", "uri"): config.tracking.uri}
    return [
        study.file.problem(key, NO_DRIVER) for key, url in urls.items() if url and lacks_driver(url)
    ]


def _closed(folders: Sequence[Path]) -> Iterator[Problem]:
    """Yield the folders that cannot be made or written to."""
    for folder in dict.fromkeys(folders):
        place = folder.resolve()
        there = next(path for path in (place, *place.parents) if os.path.lexists(path))
        if not there.is_dir():
            message = f"cannot be made: {there} is a file"
        elif reason := _refusal(there):
            message = f"cannot be written: {reason} ({there})"
        else:
            continue
        yield Problem(source=str(folder), message=message)


def _refusal(folder: Path) -> str | None:
    """Return why nothing can be written to a folder, by a file that leaves no trace."""
    try:
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        return error.strerror
    return None
