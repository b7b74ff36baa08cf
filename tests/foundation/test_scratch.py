"""Directories of what is tried out are gone afterwards, however that ended."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from sweeper.foundation.scratch import remove_abandoned, scratch


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_and_a_second_one_does_not_keep_it_from_being_removed(
    number: signal.Signals, tmp_path: Path
) -> None:
    before = signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt), scratch("tried-", tmp_path) as directory:
        (directory / "file").touch()
        try:
            os.kill(os.getpid(), number)
        finally:
            # As what is cleaned up in the block would meet it.
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGTERM)
    assert list(tmp_path.iterdir()) == []
    assert signal.getsignal(number) == before


def test_what_was_left_is_removed_once_nobody_has_used_it_for_a_day(tmp_path: Path) -> None:
    old = time.time() - 25 * 3600
    for name in ("tried-left", "tried-used", "other"):
        (tmp_path / name / "study").mkdir(parents=True)
        (tmp_path / name / "study" / "progress").touch()
        for path in (tmp_path / name / "study" / "progress", tmp_path / name / "study"):
            os.utime(path, (old, old))
        os.utime(tmp_path / name, (old, old))
    os.utime(tmp_path / "tried-used" / "study" / "progress")
    remove_abandoned("tried-", tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other", "tried-used"]
