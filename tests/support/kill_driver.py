"""``sweeper`` as a user runs it, but for one call at which its process is killed.

``kill_driver.py MODULE:NAME WHEN COUNT sweeper's arguments`` kills itself with SIGKILL before or
after the COUNT-th call of the function; of those about one file, with its name behind an ``@``.
"""

from __future__ import annotations

import functools
import importlib
import os
import signal
import sys
from pathlib import Path
from typing import Any


def kill_at(place: str, when: str, count: int) -> None:
    """Wrap the function at ``place`` for the rest of this process."""
    name, _, file = place.partition("@")
    module, _, attribute = name.partition(":")
    owner: Any = importlib.import_module(module)
    *classes, function = attribute.split(".")
    for inner in classes:
        owner = getattr(owner, inner)
    call, calls = getattr(owner, function), 0

    @functools.wraps(call)
    def killed(*arguments: Any, **options: Any) -> Any:
        nonlocal calls
        fits = not file or any(isinstance(a, Path) and a.name == file for a in arguments)
        calls += fits
        if fits and calls == count and when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        found = call(*arguments, **options)
        if fits and calls == count and when == "after":
            os.kill(os.getpid(), signal.SIGKILL)
        return found

    setattr(owner, function, killed)


if __name__ == "__main__":
    kill_at(sys.argv[1], sys.argv[2], int(sys.argv[3]))
    from sweeper.cli import main

    sys.argv = ["sweeper", *sys.argv[4:]]
    main()
