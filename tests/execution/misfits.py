"""What the processes of a trial do in tests in which one of them comes to grief."""

from __future__ import annotations

import os
import signal
import time

from sweeper.distillation.ranks import joined
from sweeper.execution.executor import Spec
from sweeper.records import Failure, FailureKind, Outcome


def first_runs_out_of_memory(spec: Spec) -> Outcome:
    """The others wait for it."""
    return _meet(spec, 0)


def second_runs_out_of_memory(spec: Spec) -> Outcome:
    """The others wait for it."""
    return _meet(spec, 1)


def second_is_killed(spec: Spec) -> Outcome:
    """The others wait for it."""
    return _meet(spec, 1, kill=True)


def _meet(spec: Spec, fails: int, *, kill: bool = False) -> Outcome:
    started = time.time()
    kind: FailureKind = "bug"
    try:
        with joined(spec.place) as ranks:
            ranks.gather(None)
            if ranks.rank == fails:
                if kill:
                    os.kill(os.getpid(), signal.SIGKILL)
                raise MemoryError
            ranks.gather(None)
    except MemoryError:
        kind = "out_of_memory"
    except RuntimeError:
        pass  # the connection to the other broke off
    failure = Failure(kind=kind, message=f"in process {spec.place.rank}")
    return Outcome(state="failed", failure=failure, started=started, finished=time.time())
