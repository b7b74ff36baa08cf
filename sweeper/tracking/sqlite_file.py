"""SQLite files: a new database appears complete or not at all."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock


def make_whole(path: Path, make: Callable[[Path], None]) -> None:
    """Let ``make`` fill a new database, unless there is one; it appears once it is complete.

    MLflow makes its tables in more than a thousand statements. It cannot resume after a process was
    killed between two of them.
    """
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_name(f".{path.name}.lock")):
        if path.exists():
            return
        for leftover in path.parent.glob(f".{path.name}.*.new*"):
            leftover.unlink()
        temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.new")
        try:
            make(temporary)
            os.replace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
