"""Answers of a served teacher, each kept as soon as it is received.

Answers may cost money. They lie in the cache under what answers (a server elsewhere, or the files
of a model that sweeper serves), one line each, by a hash of the request: whatever ends a study, and
whichever study asks next, what was answered is not asked again.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock

from sweeper.config.models import ModelConfig
from sweeper.config.remote_server import RemoteServer
from sweeper.distillation.models.loading import identity
from sweeper.foundation.cache import content_key
from sweeper.foundation.files import open_to_append, read_json_lines
from sweeper.records import ServedModel
from sweeper.serving.client import ModelClient, StoppedError
from sweeper.serving.reach import reach
from sweeper.serving.replies import Reply

KIND = "served_answers"
_FILE, _RESERVE = "answers.jsonl", ".reserve"
_BYTES_A_TOKEN = 16
"""Bytes of a long token in a stored answer, text and id together."""
_ROOM = 4096
"""Further bytes of a stored answer."""


@dataclass(frozen=True)
class Request:
    """One prompt, as a server is asked, but for the model's name there."""

    endpoint: str
    body: Mapping[str, Any]
    read: Callable[[Any], Reply]
    """Reads the reply's JSON."""
    number: int
    """Row of the data, from 1, for messages."""

    def key(self) -> str:
        """Return the hash of what decides the answer, next to the server."""
        return content_key({"endpoint": self.endpoint, "body": self.body})


def ask_all(
    teacher: ModelConfig,
    requests: Sequence[Request],
    cache: Path,
    longest: int,
    report: Callable[[int, int], None] = lambda done, total: None,
    served: ServedModel | None = None,
) -> list[Reply]:
    """Return the answer to each request; ask those that no study has asked before.

    Only one process asks a server at a time; the others wait, and find its answers.

    Args:
        teacher: The teacher, with its server.
        requests: Prompts; equal ones are asked once.
        cache: The content-addressed cache.
        longest: Most tokens of an answer.
        report: Callback for the number of answers and their total.
        served: Where the server answers, if sweeper started it.

    Raises:
        BadInputError: The server refuses a request, or its key is not set.
        NoAnswerError: The server does not answer.
        OSError: There is no room for the answers.
    """
    keys = [request.key() for request in requests]
    # Of equal ones the first, which messages name.
    wanted = dict(reversed([*zip(keys, requests, strict=True)]))
    directory = cache / KIND / content_key(identity(teacher))
    with _opened(directory) as kept:
        answers = {key: reply for key, reply in kept.read() if key in wanted}

        rows = Counter(keys)
        done = sum(rows[key] for key in answers)
        report(done, len(keys))

        def keep(request: Request, reply: Reply) -> None:
            nonlocal done
            asked = request.key()
            kept.add(asked, reply)
            answers[asked] = reply
            done += rows[asked]
            report(done, len(keys))

        if missing := [one for key, one in reversed(wanted.items()) if key not in answers]:
            reached = reach(teacher, served)
            server = reached.server
            kept.reserve(server.concurrency * (longest * _BYTES_A_TOKEN + _ROOM))
            with reached.client(lambda line: print(line, flush=True)) as model:
                _ask(model, server, missing, keep)
    return [answers[key] for key in keys]


def _ask(
    model: ModelClient,
    server: RemoteServer,
    requests: Sequence[Request],
    keep: Callable[[Request, Reply], None],
) -> None:
    """Ask, and keep answers as they come. After a failure nothing is asked, but what comes is kept.

    Raises:
        BadInputError, NoAnswerError, OSError: The first failure.
    """
    left = iter(requests)
    running: dict[Future[Reply], Request] = {}
    failure: Exception | None = None

    def ask(request: Request) -> Reply:
        body = {"model": server.model, **request.body}
        return model.ask(request.endpoint, body, request.read, f"row {request.number}")

    with ThreadPoolExecutor(server.concurrency) as threads:
        while True:
            while failure is None and len(running) < server.concurrency:
                if (request := next(left, None)) is None:
                    break
                running[threads.submit(ask, request)] = request
            if not running:
                break
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                request = running.pop(future)
                try:
                    keep(request, future.result())
                except StoppedError:
                    pass
                except Exception as error:
                    failure = failure or error
                    model.stop()
    if failure is not None:
        raise failure


class _KeptAnswers:
    """The answers of one server, in a file that grows by a line for each."""

    def __init__(self, directory: Path) -> None:
        self._path, self._reserve = directory / _FILE, directory / _RESERVE
        self._torn = not _ends_with_a_line(self._path)
        """True if the last line lacks its end."""

    def read(self) -> Iterator[tuple[str, Reply]]:
        """Yield the answers by the hashes of their requests; damaged lines are left out."""
        for row in read_json_lines(self._path)[0]:
            with suppress(KeyError, TypeError, AttributeError):
                tokens = row["reply"].pop("tokens", None)
                reply = Reply(**row["reply"], tokens=None if tokens is None else tuple(tokens))
                yield str(row["asked"]), reply

    def add(self, key: str, reply: Reply) -> None:
        """Write an answer so that it outlasts a loss of power.

        Raises:
            OSError: There is no room but that which was reserved, which it got.
        """
        line = json.dumps({"asked": key, "reply": asdict(reply)}) + "\n"
        try:
            self._append(line)
        except OSError:
            if not self._reserve.exists():
                raise
            self._reserve.unlink()
            self._append(line)
            raise

    def reserve(self, size: int) -> None:
        """Take room for the answers that may come after the disk has run full.

        Raises:
            OSError: There is none.
        """
        with self._reserve.open("wb") as file:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, size)

    def release(self) -> None:
        """Give the reserved room back."""
        self._reserve.unlink(missing_ok=True)

    def _append(self, line: str) -> None:
        descriptor = open_to_append(self._path)
        try:
            content = ("\n" * self._torn + line).encode()
            self._torn = True
            while content:
                content = content[os.write(descriptor, content) :]
            os.fsync(descriptor)
            self._torn = False
        finally:
            os.close(descriptor)


def _ends_with_a_line(path: Path) -> bool:
    """Return False if a writer was ended in the middle of a line."""
    if not path.exists() or not path.stat().st_size:
        return True
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read() == b"\n"


@contextmanager
def _opened(directory: Path) -> Iterator[_KeptAnswers]:
    """Hold the answers of a server: no other process adds to them, or asks, meanwhile."""
    directory.mkdir(parents=True, exist_ok=True)
    with FileLock(directory / ".lock"):
        kept = _KeptAnswers(directory)
        try:
            yield kept
        finally:
            kept.release()
