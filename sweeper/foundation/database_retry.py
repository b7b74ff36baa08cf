"""Retries while a database does not answer, so that its restart loses nothing."""

from __future__ import annotations

import functools
import re
import sqlite3
import sys
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, Protocol, TypeVar

from sweeper.foundation.errors import SweeperError

if TYPE_CHECKING:
    from sqlalchemy.exc import DBAPIError

LONGEST = 600.0
"""Seconds for which a database that does not answer is tried again."""
_FIRST_PAUSE, _LONGEST_PAUSE, _STEP = 0.1, 5.0, 0.25
"""Seconds: between two tries, and between two looks at whether the user wants to stop."""

_THERE = re.compile(
    r"database (table )?is locked|the database system is|too many clients|connection slots"
)
"""Messages that only a server that exists sends, or a file that another program is using."""
_PASSING = ("08", "40", "53300", "57P")
"""SQLSTATEs: connection lost, transaction to be repeated, too many connections, shutting down."""
_GATEWAY = (502, 503, 504)

_P = ParamSpec("_P")
_T = TypeVar("_T")


class DatabaseAway(Exception):
    """A database cannot answer now; what it was asked may or may not have been done.

    Args:
        address: The database, as messages name it; without a password.
        reason: Message of its driver.
    """

    def __init__(self, address: str, reason: str) -> None:
        super().__init__(f"{address} does not answer: {reason}")
        self.address = address
        self.reason = reason


class Retry:
    """Repeats a call that ends with ``DatabaseAway``, for some minutes.

    What is called must be safe to repeat even if it was done and only its answer was lost. One
    object serves all databases of a process; once it has given up, it does not wait again.

    Args:
        seconds: Seconds to keep trying.
    """

    def __init__(self, seconds: float = LONGEST) -> None:
        self.seconds = seconds
        self.waited = 0.0
        """Seconds spent waiting, in all."""
        self.tell: Callable[[str], None] = lambda text: None
        """Function that is given a message when the waiting begins and when it ends well."""
        self.while_waiting: Callable[[], None] = lambda: None
        """Function that is called several times a second while waiting; may raise to end it."""

    def __call__(self, call: Callable[[], _T]) -> _T:
        """Return what ``call`` returns.

        Raises:
            SweeperError: The database did not answer in time.
        """
        began: float | None = None
        pause = _FIRST_PAUSE
        while True:
            try:
                result = call()
            except DatabaseAway as error:
                if began is None:
                    began = time.monotonic()
                    if self.seconds > 0:
                        self.tell(
                            f"{error}. Trying again for up to {_minutes(self.seconds)};"
                            " running trials continue."
                        )
                if time.monotonic() - began >= self.seconds:
                    waited, self.seconds = self.seconds, 0.0
                    raise SweeperError(_given_up(error, waited)) from None
                self._wait(pause)
                pause = min(2 * pause, _LONGEST_PAUSE)
            else:
                if began is not None:
                    self.tell("The database answers again; the study continues.")
                return result

    def end(self) -> None:
        """Do not wait any more: the study is about to stop."""
        self.seconds = 0.0

    def _wait(self, seconds: float) -> None:
        began = time.monotonic()
        try:
            while (left := began + seconds - time.monotonic()) > 0:
                self.while_waiting()
                time.sleep(min(left, _STEP))
        finally:
            self.waited += time.monotonic() - began


class Retrying(Protocol):
    """Object with a ``Retry`` for its methods that are ``retried``."""

    _retry: Retry


_Self = TypeVar("_Self", bound=Retrying)


def retried(
    method: Callable[Concatenate[_Self, _P], _T],
) -> Callable[Concatenate[_Self, _P], _T]:
    """Repeat a method, which must be safe to repeat, while its database does not answer."""

    @functools.wraps(method)
    def call(self: _Self, /, *arguments: _P.args, **options: _P.kwargs) -> _T:
        return self._retry(lambda: method(self, *arguments, **options))

    return call


def absence(error: BaseException, *, answered: bool = True) -> str | None:
    """Return why a database cannot answer now; None for an error that waiting would not fix.

    Args:
        error: Error of a driver, SQLAlchemy or MLflow.
        answered: True if the database has answered before. If it has not, silence counts as an
            error like any other, because the address is then more likely to be wrong.
    """
    from sqlalchemy.exc import DBAPIError

    links = list(_chain(error))
    raised = next((link for link in links if isinstance(link, DBAPIError)), None)
    found = _database_absence(raised) if raised else _server_absence(links)
    if found is None or not (answered or _THERE.search(found)):
        return None
    return found


def _database_absence(error: DBAPIError) -> str | None:
    from sqlalchemy.exc import InterfaceError, OperationalError

    text = _one_line(error.orig)
    if isinstance(error.orig, sqlite3.Error):
        return text if "is locked" in text else None
    state = getattr(error.orig, "sqlstate", None)
    # Without a state it is not the server that speaks, but who found it silent.
    lost = state is None and isinstance(error, OperationalError | InterfaceError)
    passing = lost or error.connection_invalidated or str(state).startswith(_PASSING)
    return text if passing else None


def _server_absence(links: list[BaseException]) -> str | None:
    """Return why a tracking server cannot answer: no connection, gateway or database."""
    requests: Any = sys.modules.get("requests")
    silent: tuple[type[Exception], ...] = ()
    if requests:
        errors = requests.exceptions
        # The last: the connection broke in the middle of an answer.
        silent = (errors.ConnectionError, errors.Timeout, errors.ChunkedEncodingError)
    for link in links:
        status = getattr(getattr(link, "response", None), "status_code", None)
        unavailable = getattr(link, "error_code", None) == "TEMPORARILY_UNAVAILABLE"
        if isinstance(link, silent) or status in _GATEWAY or unavailable:
            return _one_line(link)
    return None


def _chain(error: BaseException) -> Iterator[BaseException]:
    link: BaseException | None = error
    while link is not None:
        yield link
        link = link.__cause__ or (None if link.__suppress_context__ else link.__context__)


def _one_line(error: BaseException | None) -> str:
    text = " ".join(str(error).split())
    return text if len(text) <= 200 else f"{text[:200]}…"


def _minutes(seconds: float) -> str:
    return f"{seconds / 60:.0f} minutes" if seconds >= 120 else f"{seconds:.0f} seconds"


def _given_up(error: DatabaseAway, waited: float) -> str:
    since = f" for {_minutes(waited)}" if waited > 0 else ""
    return (
        f"{error.address} did not answer{since}: {error.reason}\n"
        "What was done is kept: run the same command again once the database answers."
    )
