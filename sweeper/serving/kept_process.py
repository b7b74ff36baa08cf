"""A server's process with its keeper, as the run that starts it has it, or a later one."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import uuid
from pathlib import Path
from typing import TypeVar

from sweeper.foundation.files import open_to_append
from sweeper.foundation.secrets import redact_file
from sweeper.records.base import Record
from sweeper.records.layout import ServerPaths
from sweeper.serving import keeper
from sweeper.serving.launch import Launch
from sweeper.serving.processes import ProcessHandle, ProcessId

_END_SECONDS = 30.0
"""Seconds that the keeper may take: longer than it gives the server."""

AnyRecord = TypeVar("AnyRecord", bound=Record)


class LaunchNote(Record):
    """``launch.json``: the launch that counts."""

    launch: str
    """Random word."""
    serves: str
    port: int
    log_start: int
    """Byte of the log at which its own part begins."""


class _Processes(Record):
    """``processes.json``, which the keeper writes."""

    launch: str
    keeper: ProcessId
    server: ProcessId


class KeptProcess:
    """A server's process and its keeper.

    Args:
        note: Launch that it belongs to.
        paths: Files of the server.
        keeper: Keeper: a child of this process, or the handle of another's.
    """

    def __init__(
        self, note: LaunchNote, paths: ServerPaths, keeper: subprocess.Popen[bytes] | ProcessHandle
    ) -> None:
        self.serves = note.serves
        self.port = note.port
        self.log_start = note.log_start
        self._launch = note.launch
        self._paths = paths
        self._keeper = keeper

    @classmethod
    def start(
        cls, launch: Launch, paths: ServerPaths, port: int, key: str, grace: float
    ) -> KeptProcess:
        """Start a server on ``port`` that asks for ``key``, and its keeper.

        Args:
            launch: What to start.
            paths: Files of the server.
            port: Port to listen on.
            key: API key.
            grace: Seconds that it stays up without a coordinator.
        """
        log = open_to_append(paths.log)
        note = LaunchNote(
            launch=uuid.uuid4().hex,
            serves=launch.serves,
            port=port,
            log_start=os.fstat(log).st_size,
        )
        try:
            keeper.write_private(paths.key, key)
            # From now on, any other keeper of this place ends its server.
            keeper.write_private(paths.launch, note.model_dump_json())
            child = subprocess.Popen(
                [
                    *(sys.executable, "-I", str(Path(keeper.__file__).resolve())),
                    *(str(paths.launch.resolve()), note.launch),
                    *(str(paths.lease.resolve()), str(grace)),
                    *launch.command_on(port),
                ],
                env=launch.environment_with(key),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                # Ctrl-C in the terminal is for the coordinator, which decides what becomes of it.
                start_new_session=True,
            )
        finally:
            os.close(log)
        return cls(note, paths, child)

    def has_ended(self) -> bool:
        """Return True once the server has ended, or its keeper."""
        if isinstance(self._keeper, ProcessHandle):
            return not self._keeper.is_alive()
        return self._keeper.poll() is not None

    def exit_code(self) -> int | None:
        """Return the exit code of a server that has ended; None of one that others started."""
        if isinstance(self._keeper, ProcessHandle) or self._keeper.returncode is None:
            return None
        code: int = self._keeper.returncode
        return code if code >= 0 else 128 - code

    def read_key(self) -> str:
        """Return the API key of a server that an earlier run started; empty if it is lost."""
        try:
            return self._paths.key.read_text(encoding="ascii").strip()
        except (OSError, ValueError):
            return ""

    def end(self, secrets: frozenset[str]) -> None:
        """End the server with everything that it started, and remove ``secrets`` from its log."""
        if isinstance(self._keeper, ProcessHandle):
            self._keeper.signal(signal.SIGTERM)
            if not self._keeper.wait(_END_SECONDS):
                self._keeper.signal(signal.SIGKILL)
                self._keeper.wait(_END_SECONDS)
            self._keeper.close()
        else:
            self._keeper.terminate()
            try:
                self._keeper.wait(_END_SECONDS)
            except subprocess.TimeoutExpired:
                self._keeper.kill()
                self._keeper.wait()
        # A keeper that was killed has left its server behind.
        end_leftover(self._paths, self._launch)
        redact_file(self._paths.log, secrets)


def find_kept(paths: ServerPaths) -> KeptProcess | None:
    """Return the server of an earlier run, if it and its keeper are alive."""
    note, processes = _read(paths.launch, LaunchNote), _read(paths.processes, _Processes)
    if note is None or processes is None or note.launch != processes.launch:
        return None
    handle = ProcessHandle.open(processes.keeper)
    return None if handle is None else KeptProcess(note, paths, handle)


def end_leftover(paths: ServerPaths, launch: str | None = None) -> None:
    """Kill a server whose keeper is gone; ``launch``: only if it is the server of this one."""
    processes = _read(paths.processes, _Processes)
    if processes is None or launch not in (None, processes.launch):
        return
    handle = ProcessHandle.open(processes.server)
    if handle is not None:
        handle.kill_group()
        handle.wait(_END_SECONDS)
        handle.close()


def _read(path: Path, record: type[AnyRecord]) -> AnyRecord | None:
    try:
        return record.model_validate(json.loads(path.read_bytes()))
    except (OSError, ValueError):
        return None
