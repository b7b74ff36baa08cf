"""A new SQLite database appears whole or not at all."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

from filelock import FileLock


def sqlite_path(uri: str) -> Path | None:
    """The file of ``sqlite:///FILE``; None for what is no such file."""
    scheme, _, place = uri.partition(":///")
    if scheme != "sqlite" or not place or place.startswith((":memory:", "file:")):
        return None
    return Path(urlsplit(f"//host/{place}").path[1:])


def make_whole(path: Path, make: Callable[[Path], None]) -> None:
    """Have ``make`` fill a new database, unless there is one; it is seen once it is done.

    MLflow makes its tables in more than a thousand statements, and cannot go on with what a process
    left behind that was killed between two of them.
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
