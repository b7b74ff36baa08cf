"""What is kept of an attempt that did not finish, though the keeping is interrupted too."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sweeper.config.loading import load_study
from sweeper.config.settings import MethodSettings
from sweeper.foundation.files import append_json_line
from sweeper.records import Failure, Progress
from sweeper.records.layout import JobPaths
from sweeper.study import retries
from tests.support.trial_jobs import trial_spec

NAMES = ("progress", "outcome", "log", "documents", "samples", "prune_decision", "lost", "spec")


def leave_behind(files: JobPaths, attempt: int) -> dict[str, str]:
    """What an attempt wrote before it disappeared; gives the files' texts by name."""
    files.directory.mkdir(parents=True, exist_ok=True)
    (files.directory / f".trainer.{attempt}").mkdir()
    texts = {name: f"{name} of attempt {attempt}" for name in NAMES}
    for name, text in texts.items():
        getattr(files, name).write_text(text)
    return texts


def kept(files: JobPaths, attempt: int) -> dict[str, str]:
    there = files.attempt(attempt)
    return {
        name: getattr(there, name).read_text() for name in NAMES if getattr(there, name).exists()
    }


def test_a_trial_that_is_new_begins_with_attempt_one(tmp_path: Path) -> None:
    files = JobPaths(tmp_path / "0000")
    assert retries.archive_attempt(files) == 1
    assert not (files.directory / "attempts").exists()


def test_every_attempt_is_kept_by_its_number(tmp_path: Path) -> None:
    files = JobPaths(tmp_path / "0000")
    texts = {}
    for attempt in (1, 2, 3):
        texts[attempt] = leave_behind(files, attempt)
        assert retries.archive_attempt(files) == attempt + 1
    assert {attempt: kept(files, attempt) for attempt in texts} == texts
    assert [path.name for path in files.directory.iterdir()] == ["attempts"]


@pytest.mark.parametrize("earlier", [0, 2])
@pytest.mark.parametrize("done", range(len(NAMES) + 1))
def test_setting_aside_that_is_interrupted_is_taken_up_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, done: int, earlier: int
) -> None:
    files = JobPaths(tmp_path / "0000")
    for attempt in range(1, earlier + 1):
        leave_behind(files, attempt)
        retries.archive_attempt(files)
    texts = leave_behind(files, earlier + 1)

    moved = 0
    replace = os.replace

    def interrupted(*arguments: Any) -> None:
        nonlocal moved
        if moved == done:
            raise KeyboardInterrupt
        moved += 1
        replace(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", interrupted)
        if done < len(NAMES):
            with pytest.raises(KeyboardInterrupt):
                retries.archive_attempt(files)
        else:
            retries.archive_attempt(files)

    assert retries.archive_attempt(files) == earlier + 2
    assert kept(files, earlier + 1) == texts
    assert not files.attempt(earlier + 2).directory.exists()
    assert not any(getattr(files, name).exists() for name in NAMES)


def begin(files: JobPaths) -> int:
    number = retries.archive_attempt(files)
    files.directory.mkdir(parents=True, exist_ok=True)
    files.spec.write_text("{}")
    return number


def test_a_checkpoint_outlasts_attempts_and_goes_with_the_trial(tmp_path: Path) -> None:
    files = JobPaths(tmp_path / "0000")
    leave_behind(files, 1)
    (files.checkpoint / "40").mkdir(parents=True)
    assert retries.archive_attempt(files) == 2
    assert (files.checkpoint / "40").is_dir()
    for _ in range(2):
        retries.discard_checkpoint(files)
        assert not files.checkpoint.exists()


def test_losses_are_counted_over_attempts_and_interruptions_are_not(tmp_path: Path) -> None:
    files = JobPaths(tmp_path / "0000")
    assert begin(files) == 1
    assert retries.note_loss(files, "ended by SIGKILL") == 1
    assert begin(files) == 2  # and is interrupted by the user
    assert begin(files) == 3
    assert retries.note_loss(files, "ended by SIGKILL") == 2
    assert begin(files) == 4
    assert retries.note_loss(files, "ended by SIGSEGV") == retries.MOST
    assert files.attempt(1).lost.read_text() == "ended by SIGKILL\n"
    assert not files.attempt(2).lost.exists()


def test_a_smaller_attempt_makes_the_same_steps_of_smaller_pieces() -> None:
    settings = MethodSettings(per_device_train_batch_size=8, gradient_accumulation_steps=3)
    once = retries.smaller(settings)
    found = (
        once.per_device_train_batch_size,
        once.gradient_accumulation_steps,
        once.rollout_batch_size,
    )
    assert found == (4, 6, 12)
    assert retries.smaller(once).rollout_batch_size == 6


def test_what_is_ended_from_outside_has_cost_what_all_its_attempts_took(
    write_study: Callable[..., Path],
) -> None:
    spec = trial_spec(load_study(write_study()), "sft").model_copy(update={"earlier_seconds": 9.0})
    files = JobPaths(Path(spec.place.directory))
    files.directory.mkdir(parents=True, exist_ok=True)
    now = time.time()
    silent = retries.ended(
        spec, Failure(kind="stalled", message="no word"), files, started=now - 100
    )
    assert silent.cost.device_seconds == pytest.approx(100, abs=5)
    assert silent.earlier_seconds == 9.0
    rows = [
        Progress(time=now - 50, phase="load"),
        Progress(time=now - 40, phase="train", step=4, max_steps=9, seconds_before=30.0),
    ]
    for row in rows:
        append_json_line(files.progress, row.model_dump(exclude_defaults=True))
    resumed = retries.ended(spec, Failure(kind="timeout", message="too long"), files)
    assert resumed.cost.device_seconds == pytest.approx(80, abs=5)


def test_what_was_lost_for_the_last_time_is_known_after_an_interruption(tmp_path: Path) -> None:
    files = JobPaths(tmp_path / "0000")
    for attempt in range(1, retries.MOST + 1):
        leave_behind(files, attempt)
        files.lost.unlink()
        assert retries.lost_for_good(files) is None
        assert retries.note_loss(files, f"killed {attempt}") == attempt
        if attempt < retries.MOST:
            assert retries.lost_for_good(files) is None
            retries.archive_attempt(files)
    assert retries.lost_for_good(files) == f"killed {retries.MOST}"
