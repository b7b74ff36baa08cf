"""The record of a server's starts, kept while it runs."""

from __future__ import annotations

import socket
import time
from pathlib import Path
from typing import Any

from sweeper.foundation.files import write_text_atomically
from sweeper.records.serving import ServerEnd, ServerRecord, ServerStart
from sweeper.serving.launch import Launch

_WRITE_SECONDS = 30.0
"""Seconds between two notes that a server was seen: what its seconds may be short of after a kill.
"""


def read_server_record(path: Path) -> ServerRecord | None:
    """Return the record at ``path``; None if there is none, or it is damaged."""
    try:
        return ServerRecord.model_validate_json(path.read_bytes())
    except (OSError, ValueError):
        return None


class StartLog:
    """Writes the record of one server, for one thread at a time.

    Args:
        path: File of the record, which may hold the starts of earlier runs.
        launch: What is started.
    """

    def __init__(self, path: Path, launch: Launch) -> None:
        self._path = path
        self._launch = launch
        self._written = 0.0

    def started(self) -> None:
        """Note a start."""
        now = time.time()
        start = ServerStart(
            started=now,
            last_seen=now,
            program=self._launch.program,
            devices=self._launch.devices,
            host=socket.gethostname(),
        )
        self._write((*self._starts(), start))

    def answered(self, seconds: float) -> None:
        """Note that the server answered, so many seconds after its start."""
        self._change(ready_after=seconds, last_seen=time.time())

    def adopted(self) -> None:
        """Note that another run of the study uses the server."""
        starts = self._starts()
        if starts:
            self._change(adopted=starts[-1].adopted + 1, last_seen=time.time())

    def seen(self) -> None:
        """Note that the server answers still; most calls write nothing."""
        now = time.time()
        if now - self._written >= _WRITE_SECONDS:
            self._change(last_seen=now)

    def ended(self, end: ServerEnd) -> None:
        """Note the end of the last start, if it is not known yet."""
        starts = self._starts()
        if starts and starts[-1].end is None:
            # When one ended that nobody watched is unknown.
            seen = starts[-1].last_seen if end == "found dead" else time.time()
            self._change(end=end, last_seen=seen)

    def _starts(self) -> tuple[ServerStart, ...]:
        record = read_server_record(self._path)
        return record.starts if record else ()

    def _change(self, **values: Any) -> None:
        starts = self._starts()
        if starts:
            self._write((*starts[:-1], starts[-1].model_copy(update=values)))

    def _write(self, starts: tuple[ServerStart, ...]) -> None:
        record = ServerRecord(role=self._launch.role, model=self._launch.model, starts=starts)
        write_text_atomically(self._path, record.model_dump_json(indent=1) + "\n")
        self._written = time.time()
