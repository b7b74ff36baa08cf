"""Starting jobs while whoever starts them is signalled."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from sweeper.execution.processes import signals_waiting


@contextmanager
def handled(number: signal.Signals) -> Iterator[None]:
    """As ``sweeper check`` has it: the signal ends what is done."""

    def end(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(number, end)
    try:
        yield
    finally:
        signal.signal(number, before)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("beside", [False, True], ids=["alone", "beside a thread"])
def test_a_signal_waits_until_what_was_started_is_known(
    number: signal.Signals, beside: bool
) -> None:
    jobs: list[str] = []
    done = threading.Event()
    thread = threading.Thread(target=done.wait)
    if beside:
        # Such as the one that draws the terminal.
        thread.start()
    try:
        with handled(number), pytest.raises(KeyboardInterrupt), signals_waiting():
            signal.raise_signal(number)
            jobs.append("started")
        assert jobs == ["started"]
    finally:
        done.set()
        if beside:
            thread.join()


def test_a_signal_that_is_ignored_stays_ignored() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with signals_waiting():
            signal.raise_signal(signal.SIGINT)
        assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)
