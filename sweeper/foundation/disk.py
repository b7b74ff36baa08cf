"""A full disk: how to detect it, and the message about it."""

from __future__ import annotations

import errno
import os
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from sweeper.foundation.errors import FullDiskError

_NUMBERS = (errno.ENOSPC, errno.EDQUOT)
_SIGNS = (
    "No space left on device",
    "Disk quota exceeded",
    "database or disk is full",
    "(os error 28)",
    "(os error 122)",
)
"""Texts of libraries that hide the system's error in a text of their own."""
_UNCLEAR = ("disk I/O error", "unable to open database file", "file write failed")
"""Texts that also have other reasons."""
_NO_ROOM = 2**20
"""Bytes: with less than this left, an unclear error is put down to it."""


def is_full(error: BaseException, *places: Path) -> bool:
    """Return True if ``error``, or its cause, reports that no space is left.

    Args:
        error: Error that was raised.
        places: Paths where there may be no space; they decide where the error's text is unclear.
    """
    for cause in _causes(error):
        if isinstance(cause, OSError) and cause.errno in _NUMBERS:
            return True
        if isinstance(cause, sqlite3.Error) and _sqlite_code(cause) == sqlite3.SQLITE_FULL:
            return True
        text = str(cause)
        if any(sign in text for sign in _SIGNS):
            return True
        if any(sign in text for sign in _UNCLEAR) and any(_free(at) < _NO_ROOM for at in places):
            return True
    return False


def explain(error: BaseException | None, *places: Path) -> str:
    """Return one line for people, which names a path on the disk that is full.

    Args:
        error: Error that was raised; the file that it names comes first.
        places: Paths where it may have happened; the one with the least room left is named.
    """
    named = [
        str(cause.filename)
        for cause in (_causes(error) if error else ())
        if isinstance(cause, OSError) and cause.errno in _NUMBERS and cause.filename
    ]
    place = named[0] if named else str(min(places, key=_free, default="the disk"))
    return f"no space is left on the disk of {place}; make room there"


@contextmanager
def explained(*places: Path) -> Iterator[None]:
    """Turn an error about a full disk into one message.

    Args:
        places: Paths where the block writes.

    Raises:
        FullDiskError: The block failed because no space is left.
    """
    try:
        yield
    except FullDiskError:
        raise
    except Exception as error:
        if not is_full(error, *places):
            raise
        raise FullDiskError(explain(error, *places)) from error


def _causes(error: BaseException) -> Iterator[BaseException]:
    found: list[BaseException | None] = [error]
    seen: set[int] = set()
    while found:
        cause = found.pop(0)
        if cause is None or id(cause) in seen:
            continue
        seen.add(id(cause))
        yield cause
        found += [cause.__cause__, cause.__context__]


def _sqlite_code(error: sqlite3.Error) -> int | None:
    return getattr(error, "sqlite_errorcode", None)


def _free(place: Path) -> int:
    """Return the bytes left where ``place`` is, or would be."""
    for path in (place, *place.resolve().parents):
        with suppress(OSError):
            return shutil.disk_usage(path).free
    return 0


def reserve(path: Path, size: int) -> None:
    """Write a file of ``size`` zeros that has its place on the disk.

    Raises:
        OSError: There is no room.
    """
    with path.open("wb") as file:
        file.truncate(size)
        if size and hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, size)
