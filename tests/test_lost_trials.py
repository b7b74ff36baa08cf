"""Trials whose process disappears: how often they are tried, over interruptions too."""

from __future__ import annotations

from pathlib import Path

from sweeper import attempts
from sweeper.paths import JobPaths


def _attempt(files: JobPaths) -> int:
    number = attempts.set_aside(files)
    files.directory.mkdir(parents=True, exist_ok=True)
    files.spec.write_text("{}")
    return number


def test_losses_are_counted_over_attempts_and_interruptions_are_not(tmp_path: Path) -> None:
    files = JobPaths(tmp_path / "0000")
    assert _attempt(files) == 1
    assert attempts.note_loss(files, "ended by SIGKILL") == 1
    assert _attempt(files) == 2  # and is interrupted by the user
    assert _attempt(files) == 3
    assert attempts.note_loss(files, "ended by SIGKILL") == 2
    assert _attempt(files) == 4
    assert attempts.note_loss(files, "ended by SIGSEGV") == attempts.MOST
    assert files.attempt(1).lost.read_text() == "ended by SIGKILL\n"
    assert not files.attempt(2).lost.exists()
