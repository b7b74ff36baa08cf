from __future__ import annotations

import io
from dataclasses import replace

import pytest
from rich.console import Console

from sweeper.reporting.live import (
    MOST_JOBS,
    ArmProgress,
    EndedJob,
    LiveDisplay,
    LiveJob,
    LiveState,
)

START = LiveState(
    study="adder",
    started=0.0,
    arms=(ArmProgress("gkd", "gkd", 4), ArmProgress("sft", "sft", 4)),
)


def _arms(
    gkd: int, sft: int, failed: int = 0, best: float | None = None
) -> tuple[ArmProgress, ...]:
    return (
        ArmProgress("gkd", "gkd", 4, done=gkd, failed=failed, best=best),
        ArmProgress("sft", "sft", 4, done=sft),
    )


def _plain(*states: LiveState) -> list[str]:
    console = Console(file=io.StringIO(), width=40, force_terminal=False)
    with LiveDisplay(console) as display:
        for state in states:
            display.update(state)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().splitlines()


def test_plain_lines_tell_the_story_of_a_run_once() -> None:
    job = LiveJob("gkd #0", "train", step=1, max_steps=100)
    first = EndedJob("gkd #0", score=0.7431, seconds=58.2)
    second = EndedJob("gkd #1", failure="out of memory: CUDA\nout of memory", seconds=4.0)
    preparing = replace(START, preparation="scoring the teacher")
    running = replace(START, running=(job,))
    one = replace(START, arms=_arms(1, 0), ended=(first,), seconds_left=170.0)
    two = replace(one, arms=_arms(1, 0, failed=1), ended=(first, second), stopping=True)

    lines = _plain(preparing, preparing, START, running, running, one, one, two, two)

    assert lines == [
        "adder: scoring the teacher",
        "adder: 0 of 8 trials done",
        "gkd #0 started",
        "gkd #0 finished after 58 s: 0.7431",
        "adder: 10 % (1 of 8 trials, about 3 min left)",
        "gkd #1 failed after 4.0 s: out of memory: CUDA out of memory",
        "adder: 20 % (2 of 8 trials, about 3 min left)",
        "adder: stopping after the running trials",
    ]


def test_what_follows_the_search_is_counted_anew() -> None:
    done = replace(START, arms=_arms(4, 4, best=0.5))
    again = replace(START, noun="confirmation runs")
    one = replace(again, arms=_arms(1, 0, best=0.5), ended=(EndedJob("gkd #2 (new seed 1)", 0.5),))

    assert _plain(done, again, one) == [
        "adder: 8 of 8 trials done",
        "adder: 0 of 8 confirmation runs done",
        "gkd #2 (new seed 1) finished: 0.5",
        "adder: 10 % (1 of 8 confirmation runs)",
    ]


def test_a_running_trial_makes_no_flood() -> None:
    steps = [
        replace(START, running=(LiveJob("gkd #0", "train", step, 1000, loss=1 / (step + 1)),))
        for step in range(1000)
    ]

    # One trial of eight is an eighth of the study: one line for its start, one at 10 %.
    assert len(_plain(*steps)) == 3


def test_counts_alone_are_enough_for_a_line() -> None:
    lines = _plain(START, replace(START, arms=_arms(1, 0, best=0.5)))

    assert "gkd: 1 of 4 trials completed, best 0.5" in lines


def test_long_lines_are_not_broken_in_a_log() -> None:
    ended = EndedJob("gkd #0", failure="bug: " + "x" * 100)

    assert any("x" * 100 in line for line in _plain(replace(START, ended=(ended,))))


def test_a_message_is_one_line() -> None:
    console = Console(file=io.StringIO(), width=80, force_terminal=False)
    with LiveDisplay(console) as display:
        display.message("MLflow: [link]http://localhost[/link]")

    assert isinstance(console.file, io.StringIO)
    assert console.file.getvalue() == "MLflow: [link]http://localhost[/link]\n"


@pytest.mark.parametrize("width", [40, 80, 120])
def test_the_live_area_shows_arms_jobs_and_ended_trials_at_any_width(
    width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    console = Console(
        file=io.StringIO(), width=width, height=40, force_terminal=True, color_system=None
    )
    jobs = tuple(
        LiveJob(f"gkd #{n}", "train", 40 * n, 1000, 1.234, 9.87) for n in range(MOST_JOBS + 3)
    )
    state = replace(
        START,
        arms=_arms(2, 1, failed=1, best=0.75),
        running=jobs,
        ended=(EndedJob("sft #0", score=0.5), EndedJob("gkd #1", failure="bug: " + "x" * 200)),
        seconds_left=400.0,
    )

    with LiveDisplay(console) as display:
        display.update(state)
        display.message("above")

    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    for part in ("above", "gkd #3", "3/4", "sft #0 finished: 0.5", "… and 3 more"):
        assert part in text
    if width >= 80:
        assert "4 of 8 trials" in text
        assert "about 7 min left" in text
    # The cursor is hidden once and shown again.
    assert text.count("\x1b[?25l") == text.count("\x1b[?25h") == 1


def test_a_terminal_that_cannot_move_its_cursor_gets_plain_lines(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TERM", "dumb")
    console = Console(file=io.StringIO(), width=80, force_terminal=True, color_system=None)

    with LiveDisplay(console) as display:
        display.update(START)

    assert isinstance(console.file, io.StringIO)
    assert console.file.getvalue() == "adder: 0 of 8 trials done\n"
