"""A client of OpenAI-compatible servers: asks until there is an answer, or a reason to stop.

What passes (too many requests, a server that fails, hangs or talks nonsense) is tried again, with
exponential back-off. What does not (a wrong key, model or request) stops at once.
"""

from __future__ import annotations

import json
import os
import random
import re
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import httpx2

from sweeper.config.remote_server import RemoteServer
from sweeper.foundation.errors import BadInputError, NoAnswerError
from sweeper.foundation.secrets import HIDDEN, SHORTEST, redact_credentials
from sweeper.serving.http_checks import health
from sweeper.serving.replies import NonsenseError

Answer = TypeVar("Answer")

LARGEST = 16 * 2**20
"""Bytes of the largest reply that is read, unless more is asked for."""
WEIGHTS_HEADER = "Sweeper-Weights"
"""Header that names the weights that a request is meant for."""
TEACHER = ("teacher", "server")
"""Key of the study file for the teacher's server."""
_CONNECT = 10.0
"""Seconds to wait for a connection."""
_FIRST = 0.5
"""Seconds before the first retry, unless the server asks for more."""
_LONGEST = 60.0
"""The most seconds before any."""
_FAILURES = 6
"""Times in a row that a healthy server may fail: they take up to half a minute, as attempts wait
longer each time."""
_HEALTH_SECONDS = 5.0
_PASSING = {408, 409, 425, 429}
"""Statuses next to 5xx after which asking again may help."""


class StoppedError(Exception):
    """Another request has found that no answer will come."""


class OtherWeightsError(Exception):
    """The server does not have the weights that a request is meant for: it was started again."""


class _PassingError(Exception):
    """An attempt failed for a reason that may pass."""

    def __init__(
        self, reason: str, retry_after: float | None = None, *, failed: bool = False
    ) -> None:
        super().__init__(reason)
        self.retry_after = retry_after
        self.failed = failed
        """True if the server answered that it failed (5xx)."""


def read_key(server: RemoteServer) -> str | None:
    """Return the API's key from this process's environment; None if the server needs none.

    Raises:
        BadInputError: The variable is not set, or holds what no header can.
    """
    name = server.api_key_env
    if name is None:
        return None
    key = os.environ.get(name, "").strip()
    place = (*TEACHER, "api_key_env")
    if not key:
        raise BadInputError(
            f"expected the API's key in the environment variable {name}, which is not set where"
            " jobs run",
            place,
        )
    if not re.fullmatch(r"[!-~]+", key):
        message = f"expected a key of printable ASCII characters in the environment variable {name}"
        raise BadInputError(message, place)
    return key


class ModelClient:
    """A model behind a server. Threads may share it.

    Args:
        server: The server.
        key: The API's key, if it needs one; see ``read_key``.
        tell: Called with a line for the log about each attempt that failed.
        advice: What to check where the server refuses a request.
        blamed: Key of the study file that has the server's keys.
        weights: Version of the weights that requests are meant for, if the server changes its.
        log: Log of the server, if sweeper started it: one that is healthy and fails all the same is
            not asked for long.
    """

    def __init__(
        self,
        server: RemoteServer,
        key: str | None,
        tell: Callable[[str], None],
        advice: str = "Check url, model and extra_body.",
        blamed: tuple[str, ...] = TEACHER,
        weights: str | None = None,
        log: Path | None = None,
    ) -> None:
        self._server, self._key, self._tell, self._advice = server, key, tell, advice
        self._blamed, self._log = blamed, log
        self._stopped = threading.Event()
        # The reply's size is bounded, and so it may not come packed.
        headers = {"Accept-Encoding": "identity"}
        if self._key is not None:
            headers["Authorization"] = f"Bearer {self._key}"
        if weights is not None:
            headers[WEIGHTS_HEADER] = weights
        self._client = httpx2.Client(
            headers=headers,
            timeout=httpx2.Timeout(server.timeout, connect=min(_CONNECT, server.timeout)),
            limits=httpx2.Limits(max_connections=server.concurrency),
            # A proxy must not be asked for what is on this machine.
            trust_env=not server.is_here,
        )

    def __enter__(self) -> ModelClient:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def stop(self) -> None:
        """Let no request be sent again; those under way may still be answered."""
        self._stopped.set()

    def ask(
        self,
        endpoint: str,
        body: Mapping[str, Any],
        read: Callable[[Any], Answer],
        what: str,
        largest: int = LARGEST,
        failed_for_good: Callable[[str], Exception] = NoAnswerError,
    ) -> Answer:
        """Return the answer to a request.

        Args:
            endpoint: Path after the base address, such as ``chat/completions``.
            body: The request.
            read: Reads the reply's JSON, None if it is empty; raises ``NonsenseError``.
            what: The request in words, for messages: ``prompt 17``.
            largest: Bytes of the largest reply that is read.
            failed_for_good: Makes the error, from its message, of a healthy server that sweeper
                started and that answers again and again that it failed (5xx).

        Raises:
            BadInputError: The server refuses the request for a reason that does not pass.
            NoAnswerError: It has not answered within ``retry_for`` seconds.
            OtherWeightsError: It has other weights than requests are meant for.
            StoppedError: ``stop`` was called.
        """
        attempts, failures, first_failure = 0, 0, 0.0
        while not self._stopped.is_set():
            attempts += 1
            try:
                return read(self._post(endpoint, body, what, largest))
            except (NonsenseError, _PassingError) as error:
                now = time.monotonic()
                first_failure = first_failure if attempts > 1 else now
                reason = f"nonsense: {error}" if isinstance(error, NonsenseError) else str(error)
                failures = failures + 1 if getattr(error, "failed", False) else 0
                if failures >= _FAILURES and self._is_well():
                    raise failed_for_good(
                        f"The server {self._server.url} is healthy, but failed {failures} times in"
                        f" a row on {what}, the last time: {reason}. Its log says why: {self._log}"
                    ) from None
                pause = delay(attempts, getattr(error, "retry_after", None))
                if now + pause > first_failure + self._server.retry_for:
                    raise NoAnswerError(self._given_up(what, attempts, reason, pause)) from None
                self._tell(f"{what}: {reason}; asking again in {pause:.1f} s")
                self._stopped.wait(pause)
        raise StoppedError

    def _is_well(self) -> bool:
        """Return True if a server that sweeper started answers that it is well."""
        # One whose engine has ended fails too, until it is started again.
        port = urlsplit(self._server.url).port
        if self._log is None or port is None:
            return False
        return health(port, _HEALTH_SECONDS) == "well"

    def _given_up(self, what: str, attempts: int, reason: str, pause: float) -> str:
        times = "once" if attempts == 1 else f"{attempts} times"
        return (
            f"The server {self._server.url} does not answer: {what} was asked {times}, the last"
            f" time: {reason}. The next attempt, in {pause:.0f} s, would be later than"
            f" it may be asked again (retry_for: {self._server.retry_for:g} s); run the same"
            " command again to resume."
        )

    def _post(self, endpoint: str, body: Mapping[str, Any], what: str, largest: int) -> Any:
        """Send a request once and return the reply's JSON."""
        address = f"{self._server.url.rstrip('/')}/{endpoint}"
        deadline = time.monotonic() + self._server.timeout
        content = bytearray()
        try:
            with self._client.stream("POST", address, json=dict(body)) as response:
                for piece in response.iter_bytes():
                    content += piece
                    if len(content) > largest:
                        raise NonsenseError(f"more than {largest // 2**20} MiB")
                    if time.monotonic() > deadline:
                        raise httpx2.ReadTimeout("")
        except httpx2.TimeoutException:
            message = f"no whole answer in {self._server.timeout:g} s (timeout)"
            raise _PassingError(message) from None
        except httpx2.HTTPError as error:
            # The error's own text may hold what was sent.
            raise _PassingError(f"no connection, or a broken one ({_name(error)})") from None
        # A server that repeats the key must not carry it into records.
        text = bytes(content)
        if self._key is not None and len(self._key) >= SHORTEST:
            text = text.replace(self._key.encode(), HIDDEN.encode())
        if response.status_code != HTTPStatus.OK:
            self._refuse(response, text, what)
        try:
            return json.loads(text) if text else None
        except (ValueError, RecursionError):
            raise NonsenseError(f"no JSON ({_quoted(text)})") from None

    def _refuse(self, response: httpx2.Response, content: bytes, what: str) -> None:
        """Raise the error for a status other than 200."""
        status = response.status_code
        reason = f"{status} {_phrase(status)}: {_quoted(content)}"
        if status in _PASSING or status >= 500:
            wait = retry_after(response.headers.get("Retry-After"))
            raise _PassingError(reason, wait, failed=status >= 500)
        if status == HTTPStatus.PRECONDITION_FAILED:
            raise OtherWeightsError
        key, advice = self._blamed, self._advice
        if status in (401, 403):
            if self._server.api_key_env is None:
                advice = "If the server needs a key, write api_key_env."
            else:
                key, advice = (*self._blamed, "api_key_env"), "Check the key in that variable."
        elif 300 <= status < 400:
            key, advice = (*self._blamed, "url"), "Write the address that it redirects to."
        message = f"the server {self._server.url} refused {what} with {reason.rstrip('.')}"
        raise BadInputError(f"{message}. {advice}", key)


def delay(attempt: int, asked_for: float | None = None) -> float:
    """Return the seconds before another attempt: what the server asks for, or longer each time.

    Args:
        attempt: Number of the attempt that failed, from 1.
        asked_for: Seconds of the server's ``Retry-After``.
    """
    if asked_for is not None:
        return asked_for
    # Jitter, so that those who failed together do not come back together.
    return min(_LONGEST, _FIRST * 2.0 ** min(attempt - 1, 16)) * random.uniform(0.5, 1.0)


def retry_after(header: str | None) -> float | None:
    """Return the seconds that a ``Retry-After`` header asks for; None if it says nothing clear."""
    if header is None:
        return None
    if re.fullmatch(r"\s*\d{1,9}(\.\d*)?\s*", header):
        return float(header)
    try:
        when = parsedate_to_datetime(header)
        return max(0.0, (when.astimezone(UTC) - datetime.now(UTC)).total_seconds())
    except (TypeError, ValueError, OverflowError):
        return None


def _quoted(content: bytes) -> str:
    """Return what a server said as one short line, fit for a terminal."""
    text = content[:4096].decode("utf-8", "replace")
    with suppress(ValueError, RecursionError):
        found = json.loads(content) if len(content) <= 2**16 else None
        error = found.get("error", found) if isinstance(found, dict) else None
        said = error.get("message", error.get("detail")) if isinstance(error, dict) else error
        text = said if isinstance(said, str) and said else text
    line = redact_credentials(" ".join(text.split()))
    line = "".join(character for character in line if character.isprintable())
    return (line if len(line) <= 200 else f"{line[:197]}...") or "no text"


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "(no known status)"


def _name(error: httpx2.HTTPError) -> str:
    """Return the kind of an error in words: ``connect error``."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", type(error).__name__).lower()
