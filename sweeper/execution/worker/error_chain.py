"""The errors that led to an error: its causes, its group, and the other end of a remote call."""

from __future__ import annotations

from collections.abc import Iterator


def error_chain(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error, those in its group, and those that caused it, each once."""
    waiting = [error]
    seen: set[int] = set()
    while waiting:
        error = waiting.pop()
        if error is None or id(error) in seen:
            continue
        seen.add(id(error))
        yield error
        before = error.__context__ if not error.__suppress_context__ else None
        # Ray keeps the error of a task in an attribute of its own.
        remote = getattr(error, "cause", None)
        within = error.exceptions if isinstance(error, BaseExceptionGroup) else ()
        waiting += [
            error.__cause__ or before,
            remote if isinstance(remote, BaseException) else None,
            *reversed(within),
        ]
