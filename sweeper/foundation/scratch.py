"""Scratch directories, which are removed however their use ends."""

from __future__ import annotations

import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

_ABANDONED = 24 * 3600
"""Seconds without a change after which nobody uses a directory any more."""
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def scratch(prefix: str, place: Path | None = None) -> Iterator[Path]:
    """Make a new directory, which is removed when the block ends.

    Ctrl-C and SIGTERM end the block with ``KeyboardInterrupt``, also where whoever started this
    process has it ignore Ctrl-C. From then on both are ignored until the directory is gone.

    Args:
        prefix: Beginning of its name.
        place: Folder that it lies in; None: that of temporary files.
    """
    before = {number: signal.getsignal(number) for number in _SIGNALS}

    def end(number: int, frame: FrameType | None) -> None:
        _ignore()
        raise KeyboardInterrupt

    _ignore()
    directory = Path(tempfile.mkdtemp(prefix=prefix, dir=place))
    try:
        for number in _SIGNALS:
            signal.signal(number, end)
        yield directory
    finally:
        _ignore()
        shutil.rmtree(directory, ignore_errors=True)
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)


def remove_abandoned(prefix: str, place: Path) -> None:
    """Remove what processes left in ``place`` that were killed: a day old or more."""
    for directory in place.glob(f"{prefix}*"):
        # Another process may remove it, too.
        with suppress(OSError):
            changed = max(path.lstat().st_mtime for path in (directory, *directory.rglob("*")))
            if time.time() - changed > _ABANDONED:
                shutil.rmtree(directory, ignore_errors=True)


def _ignore() -> None:
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)
