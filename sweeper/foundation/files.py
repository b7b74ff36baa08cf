"""Atomic writes, and files of JSON lines that grow while they are read."""

from __future__ import annotations

import json
import os
import re
import shutil
import uuid
from contextlib import suppress
from pathlib import Path
from typing import Any


def write_text_atomically(path: Path, text: str) -> None:
    """Write ``text`` so that ``path`` holds either the old or the whole new content."""
    write_bytes_atomically(path, text.encode("utf-8"))


def write_bytes_atomically(path: Path, content: bytes) -> None:
    """Write ``content`` so that ``path`` holds either the old or the whole new content."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.parent / f".{path.name}.{uuid.uuid4().hex}"
    try:
        with temporary.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


_TEMPORARY = re.compile(r"\.[\w.-]+\.[0-9a-f]{32}|\.trainer\..*")
"""Names of what is written before it gets its own name, and of what a job trains in."""


def remove_leftovers(directory: Path) -> None:
    """Remove what killed writers left behind below ``directory``, where nobody writes any more."""
    for path in list(directory.rglob(".*")):
        if _TEMPORARY.fullmatch(path.name):
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                with suppress(OSError):
                    path.unlink()


def append_json_line(path: Path, row: dict[str, Any]) -> None:
    """Append one JSON row in a single write, so that a reader never sees half a line mixed."""
    with os.fdopen(open_to_append(path), "a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")


def open_to_append(path: Path) -> int:
    """Return a descriptor of ``path``, made if need be; a symbolic link is an error."""
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o666)


def read_json_lines(path: Path, start: int = 0) -> tuple[list[dict[str, Any]], int]:
    """Return the complete rows of a file that may still be growing, or may not exist yet.

    Args:
        path: The file.
        start: The byte to start from: 0, or what an earlier call returned.

    Returns:
        The rows, and the byte after the last complete one.
    """
    if not path.exists():
        return [], start
    with path.open("rb") as file:
        file.seek(start)
        text = file.read()
    complete = text[: text.rfind(b"\n") + 1]
    rows = []
    for line in complete.splitlines():
        # A writer that was killed may have left half a line, to which the next one appended.
        with suppress(ValueError):
            rows.append(json.loads(line))
    return rows, start + len(complete)
