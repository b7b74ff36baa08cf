"""A served model for as long as a coordinator needs it: started, watched, restarted, ended."""

from __future__ import annotations

import secrets
import threading
import time
from collections import deque
from dataclasses import dataclass
from types import TracebackType
from typing import Literal

from filelock import FileLock

from sweeper.foundation.errors import ServerError
from sweeper.records.layout import ServerPaths
from sweeper.records.serving import ServedModel, ServerEnd
from sweeper.serving.failures import PORT_TAKEN, explain, kind_of, log_end
from sweeper.serving.http_checks import base_url, free_port, generates, health, serves
from sweeper.serving.kept_process import KeptProcess, end_leftover, find_kept
from sweeper.serving.launch import Launch
from sweeper.serving.start_log import StartLog

State = Literal["idle", "starting", "up", "failed", "ended"]

_PORTS = 3
"""Ports that are tried, if others take them in the meantime."""
_TRIES = 3
"""Times that the server of an earlier run is asked, which may be busy."""
_LOOK_SECONDS = 0.2


@dataclass(frozen=True)
class Patience:
    """How long a server is waited for, in seconds."""

    check_every: float = 5.0
    """Time between two looks at whether it answers."""
    answer_within: float = 5.0
    """Time that it may take for one answer about itself."""
    hung_after: float = 60.0
    """Time without an answer after which it counts as hung."""
    back_off: tuple[float, ...] = (1.0, 10.0, 60.0)
    """Waits before its restarts in a row: as many restarts as waits."""
    settled_after: float = 600.0
    """Time that it has to be up for its restarts to count anew."""
    grace: float = 120.0
    """Time that it stays up without a coordinator, so that the study's next run finds it."""


class ModelServer:
    """A server of one model, owned by one coordinator; a context manager that ends it.

    ``start`` returns at once: a thread starts the server, or adopts the one of an earlier run of
    the study, and watches it. After ``end`` it can be started again. The methods are for one
    thread, the coordinator's.

    Args:
        launch: What to serve.
        paths: Its files.
        patience: How long it is waited for.
    """

    def __init__(self, launch: Launch, paths: ServerPaths, patience: Patience = Patience()) -> None:
        self.launch = launch
        self.paths = paths
        self._patience = patience
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._lease: FileLock | None = None
        self._process: KeptProcess | None = None
        self._starts = StartLog(paths.record, launch)
        self._messages: deque[str] = deque()
        self._state: State = "idle"
        self._failure = ""
        self._address: ServedModel | None = None
        self._key = ""
        self._port = 0

    def __enter__(self) -> ModelServer:
        """Return the server, not started yet."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End the server."""
        self.end()

    @property
    def state(self) -> State:
        """State of the server; ``starting`` also while it is restarted."""
        return self._state

    def start(self) -> None:
        """Begin to start the server, unless it runs."""
        if self._thread is not None:
            return
        self.paths.directory.mkdir(parents=True, exist_ok=True)
        self._lease = FileLock(self.paths.lease)
        # A keeper holds it for a moment only.
        self._lease.acquire(timeout=60)
        self._state = "starting"
        self._thread = threading.Thread(target=self._run, name="model server", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Raise if the server cannot be started, or does not stay up.

        Raises:
            ServerError: Names the reason, and what to try.
        """
        if self._state == "failed":
            raise ServerError(self._failure)

    @property
    def address(self) -> ServedModel | None:
        """Address of the server from its first answer on; a restart does not change it."""
        return self._address

    def messages(self) -> list[str]:
        """Return what happened since the last call, a line each."""
        lines = []
        while self._messages:
            lines.append(self._messages.popleft())
        return lines

    def end(self) -> None:
        """End the server with all of its processes; leave its log and its record."""
        if self._thread is None:
            return
        self._stop.set()
        self._thread.join()
        if self._process is not None:
            self._close("no longer needed")
        if self._lease is not None:
            for path in (self.paths.key, self.paths.launch, self.paths.processes):
                path.unlink(missing_ok=True)
            self._lease.release()
            self._lease = None
        self._thread, self._address = None, None
        self._stop.clear()
        self._state = "ended"

    # The thread

    def _run(self) -> None:
        try:
            if not self._adopt():
                self._launch_on_free_port()
            self._address = ServedModel(
                url=base_url(self._port),
                name=self.launch.name,
                key_file=str(self.paths.key.resolve()),
                start_timeout=self.launch.start_timeout,
            )
            restarts = 0
            while not self._stop.is_set():
                self._state = "up"
                up_since = time.monotonic()
                end = self._watch()
                if end is None:
                    return
                if time.monotonic() - up_since >= self._patience.settled_after:
                    restarts = 0
                restarts = self._restart(end, restarts)
        except ServerError as error:
            self._fail(str(error))
        except Exception as error:  # it would be lost with the thread
            self._fail(f"{type(error).__name__}: {error}")

    def _fail(self, reason: str) -> None:
        if self._process is not None:
            self._close("died")
        self._failure = (
            f"The server of {self._subject} {reason}\nThe log is {self.paths.log}. Run the same"
            " command again to resume."
        )
        self._state = "failed"

    def _adopt(self) -> bool:
        """Take over the server of an earlier run if it answers and serves the same; else end it."""
        kept = find_kept(self.paths)
        if kept is not None and kept.serves == self.launch.serves:
            key = kept.read_key()
            if any(self._answers(kept.port, key) for _ in range(_TRIES)):
                self._process, self._port, self._key = kept, kept.port, key
                self._starts.adopted()
                self._say(f"found the server of the last run at {base_url(kept.port)}")
                return True
        if kept is not None:
            kept.end(frozenset())
            self._starts.ended("replaced")
        else:
            end_leftover(self.paths)
            self._starts.ended("found dead")
        return False

    def _answers(self, port: int, key: str) -> bool:
        return serves(port, self.launch.name, key, self._patience.answer_within)

    def _generates(self) -> bool:
        """Have it generate a token: some servers start with a model that they cannot compute."""
        limit = self._patience.answer_within
        return generates(self._port, self.launch.name, self._key, limit)

    def _launch_on_free_port(self) -> None:
        self._key = secrets.token_urlsafe(32)
        for _ in range(_PORTS):
            self._port = free_port()
            if self._launch_here():
                return
        reason = f"found no free port: {_PORTS} were taken by others before it could listen."
        raise ServerError(reason)

    def _launch_here(self) -> bool:
        """Start the server on its port, and wait until it answers, or until a stop.

        Returns:
            False if another process has the port.

        Raises:
            ServerError: It ended, or did not answer in time.
        """
        self._say(f"starting {self.launch.program} on {', '.join(self.launch.devices)}")
        self._process = KeptProcess.start(
            self.launch, self.paths, self._port, self._key, self._patience.grace
        )
        self._starts.started()
        started = time.monotonic()
        while not self._stop.wait(_LOOK_SECONDS):
            seconds = time.monotonic() - started
            if self._process.has_ended():
                text = self._log_end()
                code = self._process.exit_code()
                self._close("never answered")
                if kind_of(text) == PORT_TAKEN:
                    return False
                raise ServerError(explain(text, code, self.launch.key))
            if self._answers(self._port, self._key) and self._generates():
                self._starts.answered(seconds)
                self._say(f"the server answers at {base_url(self._port)} after {seconds:.0f} s")
                return True
            if seconds > self.launch.start_timeout:
                text = self._log_end()
                self._close("never answered")
                limit = ".".join((*self.launch.key, "start_timeout"))
                limit += f": {self.launch.start_timeout:g} s"
                raise ServerError(
                    f"did not answer in time ({limit}) and {explain(text, None, self.launch.key)}"
                )
        return True

    def _watch(self) -> ServerEnd | None:
        """Return why the server has to be started again; None on a stop."""
        assert self._process is not None
        patience = self._patience
        seen = time.monotonic()
        while not self._stop.wait(patience.check_every):
            if self._process.has_ended():
                return "died"
            state = health(self._port, patience.answer_within)
            if state == "unwell":
                return "died"
            if state == "well":
                seen = time.monotonic()
                self._starts.seen()
            elif time.monotonic() - seen >= patience.hung_after:
                return "hung"
        return None

    def _restart(self, end: ServerEnd, restarts: int) -> int:
        """Start the server again where jobs expect it; return the number of restarts in a row.

        Raises:
            ServerError: It was restarted too often.
        """
        assert self._process is not None
        self._state = "starting"
        what = "hung and was ended" if end == "hung" else "died"
        reason = f"{what}: it {self._explain()}"
        self._close(end)
        waits = self._patience.back_off
        while restarts < len(waits):
            wait = waits[restarts]
            restarts += 1
            self._say(f"the server {what}; restart {restarts} of {len(waits)} in {wait:g} s")
            if self._stop.wait(wait):
                return restarts
            try:
                if self._launch_here():
                    return restarts
                what = "found its port taken"
                reason = f"{what}."
            except ServerError as error:
                what, reason = "did not start again", str(error)
        raise ServerError(f"was restarted {restarts} times in a row, and {reason}")

    def _explain(self) -> str:
        assert self._process is not None
        return explain(self._log_end(), self._process.exit_code(), self.launch.key)

    def _log_end(self) -> str:
        assert self._process is not None
        return log_end(self.paths.log, self._process.log_start, frozenset({self._key}))

    def _close(self, end: ServerEnd) -> None:
        """End the process, and note why."""
        assert self._process is not None
        self._process.end(frozenset({self._key}))
        self._starts.ended(end)
        self._process = None

    def _say(self, text: str) -> None:
        self._messages.append(f"{self._subject}: {text}")

    @property
    def _subject(self) -> str:
        return f"the {self.launch.role} {self.launch.model}"
