"""Files and folders that cannot be read or written: how to detect it, and the message about it."""

from __future__ import annotations

import errno

from sweeper.foundation.databases import sqlite_path
from sweeper.foundation.errors import PlaceError

_NUMBERS = (
    *(errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.EEXIST),
    *(errno.ENAMETOOLONG, errno.ELOOP, errno.ENOTEMPTY, errno.EIO, errno.ESTALE, errno.ETXTBSY),
)
_NO_SCRATCH = "No usable temporary directory"
_SQLITE = (
    "attempt to write a readonly database",
    "unable to open database file",
    "file is not a database",
    "database disk image is malformed",
)


def place_error(error: OSError) -> PlaceError | None:
    """Return the message about a file or folder; None for an error of another kind."""
    if _NO_SCRATCH in str(error.strerror):
        return PlaceError("TMPDIR", str(error.strerror))
    place = error.filename2 or error.filename
    if error.errno not in _NUMBERS or not isinstance(place, str):
        return None
    return PlaceError(place, str(error.strerror))


def database_error(error: BaseException, url: str) -> PlaceError | None:
    """Return the message about the SQLite file of ``url``; None for an error of another kind."""
    file, text = sqlite_path(url), str(error)
    reason = next((sign for sign in _SQLITE if sign in text), None)
    return PlaceError(file, reason) if file is not None and reason is not None else None
