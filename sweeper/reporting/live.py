"""The live display of a running study.

A terminal gets a live area with the arms, the running jobs and the time left. A log file or CI gets
single lines, and only for events that matter to its reader.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from sweeper.reporting.console import Columns, show
from sweeper.reporting.text import formatting
from sweeper.reporting.text.terminal_escape import visible

MOST_JOBS = 12
"""Most running jobs that are shown; the rest is counted."""


@dataclass(frozen=True)
class ArmProgress:
    """Progress of an arm."""

    name: str
    method: str
    budget: int
    done: int = 0
    """Trials that completed or were pruned."""
    failed: int = 0
    """Trials that failed; they count towards the budget."""
    best: float | None = None


@dataclass(frozen=True)
class LiveJob:
    """A trial, or a step of the preparation, that is running."""

    label: str
    """Name of the job, such as ``gkd #3``; it stays the same while the job runs."""
    phase: str
    step: int | None = None
    max_steps: int | None = None
    loss: float | None = None
    steps_per_second: float | None = None

    @property
    def fraction(self) -> float:
        """Share of the optimiser steps that is done."""
        return min((self.step or 0) / self.max_steps, 1.0) if self.max_steps else 0.0


@dataclass(frozen=True)
class EndedJob:
    """A trial that ended, with its score or the reason why it has none."""

    label: str
    score: float | None = None
    pruned: bool = False
    """True if the trial ended early, with the score it had by then."""
    failure: str | None = None
    """Kind and message of the failure, on one line."""
    seconds: float | None = None


@dataclass(frozen=True)
class LiveState:
    """Everything that the display shows at one moment."""

    study: str
    started: float
    """Seconds since the epoch."""
    arms: tuple[ArmProgress, ...]
    running: tuple[LiveJob, ...] = ()
    ended: tuple[EndedJob, ...] = ()
    """All trials that ended since the command began, in order; the tuple only grows."""
    preparation: str | None = None
    """Running step of the preparation, in words."""
    noun: str = "trials"
    """Noun for what the arms count: trials or confirmation runs."""
    seconds_left: float | None = None
    stopping: bool = False
    """True if the study stops after the running trials."""

    @property
    def ended_trials(self) -> int:
        """Number of trials of all arms that ended."""
        return sum(arm.done + arm.failed for arm in self.arms)

    @property
    def budget(self) -> int:
        """Number of trials that all arms may run."""
        return sum(arm.budget for arm in self.arms)

    @property
    def fraction(self) -> float:
        """Share of the search that is done, parts of running trials included."""
        running = sum(job.fraction for job in self.running) if not self.preparation else 0.0
        return min((self.ended_trials + running) / self.budget, 1.0) if self.budget else 0.0


class LiveDisplay:
    """Display of a running study; a context manager that restores the terminal.

    Not thread-safe: one thread calls ``update`` and ``message``.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._lines = _PlainLines()
        self._area = _LiveArea()
        # Transient: what stays on the screen is the report that the caller prints afterwards.
        self._live = (
            Live(self._area, console=console, refresh_per_second=4, transient=True)
            if console.is_terminal and not console.is_dumb_terminal
            else None
        )

    def __enter__(self) -> LiveDisplay:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def update(self, state: LiveState) -> None:
        """Show ``state``; frequent calls are cheap."""
        if self._live is not None:
            self._area.state = state
            return
        for line in self._lines.changes(state):
            self.message(line)

    def message(self, text: str) -> None:
        """Print a line that stays: above the live area where there is one."""
        self._console.print(Text(visible(text)), soft_wrap=self._live is None)

    def show(self, view: RenderableType) -> None:
        """Print something larger that stays."""
        show(view, self._console)


class _LiveArea:
    """Live area that renders the latest state; clock and spinner move between states."""

    def __init__(self) -> None:
        self.state: LiveState | None = None
        self._spinner = Spinner("line")

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        state = self.state
        if state is None:
            return
        line = Table.grid(padding=(0, 1, 0, 0))
        line.add_row(self._spinner, Text(_status_line(state, time.time())))
        yield line
        yield ""
        width = options.max_width
        yield _arm_table(state, bar=20 if width >= 80 else 6 if width >= 60 else 0)
        if state.running:
            yield ""
            yield _job_table(state.running, bar=12 if width >= 80 else 0)
        if state.ended:
            yield ""
        for job in state.ended[-3:]:
            style = "dim" if job.failure is None else "red"
            text = Text(f"  {_ended_line(job)}", style=style, overflow="fold")
            if width >= 60:
                text.no_wrap, text.overflow = True, "ellipsis"
            yield text


def _status_line(state: LiveState, now: float) -> str:
    parts = [state.study]
    if state.preparation:
        parts.append(state.preparation)
    elif state.budget:
        parts.append(f"{state.ended_trials} of {state.budget} {state.noun}")
    parts.append(_clock(now - state.started))
    if state.stopping:
        parts.append("stopping after the running trials")
    elif state.seconds_left is not None and not state.preparation:
        parts.append(f"{formatting.time_left(state.seconds_left)} left")
    return " · ".join(parts)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(int(max(seconds, 0)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _arm_table(state: LiveState, bar: int) -> Table:
    table = Columns(box=None, padding=(0, 1), header_style="dim", pad_edge=True)
    table.add_column("arm", no_wrap=True, overflow="ellipsis")
    if bar:
        table.add_column("", width=bar)
    for header in ("trials", "failed", "best"):
        table.add_column(header, justify="right", no_wrap=True)
    for arm in state.arms:
        ended = arm.done + arm.failed
        shown = ProgressBar(total=max(arm.budget, 1), completed=ended, width=bar)
        table.add_row(
            arm.name,
            *([shown] if bar else []),
            f"{ended}/{arm.budget}",
            Text(str(arm.failed), style="red") if arm.failed else Text("0", style="dim"),
            formatting.NOTHING if arm.best is None else f"{arm.best:.3f}",
        )
    return table


def _job_table(jobs: Sequence[LiveJob], bar: int) -> RenderableType:
    """Build the table of running jobs; without a bar it also omits their speed."""
    table = Columns(box=None, padding=(0, 1), header_style="dim")
    table.add_column("running", no_wrap=True, overflow="ellipsis")
    table.add_column("phase", no_wrap=True)
    for header in ("step", "loss", "steps/s")[: 3 if bar else 2]:
        table.add_column(header, justify="right", no_wrap=True)
    if bar:
        table.add_column("", width=bar)
    for job in jobs[:MOST_JOBS]:
        speed = "" if job.steps_per_second is None else f"{job.steps_per_second:.2g}"
        done = ProgressBar(job.max_steps, job.step or 0, width=bar) if job.max_steps else ""
        table.add_row(
            job.label,
            job.phase,
            f"{job.step or 0}/{job.max_steps}" if job.max_steps else "",
            "" if job.loss is None else f"{job.loss:.4g}",
            *((speed, done) if bar else ()),
        )
    if len(jobs) <= MOST_JOBS:
        return table
    return Group(table, Text(f" … and {len(jobs) - MOST_JOBS} more", style="dim"))


def _ended_line(job: EndedJob) -> str:
    took = "" if job.seconds is None else f" after {formatting.seconds(job.seconds)} s"
    if job.failure is not None:
        return f"{job.label} failed{took}: {' '.join(job.failure.split())}"
    score = "no score" if job.score is None else f"{job.score:.4g}"
    return f"{job.label} {'pruned' if job.pruned else 'finished'}{took}: {score}"


class _PlainLines:
    """Lines of a log, made from what changed between two states."""

    def __init__(self) -> None:
        self._running: set[str] = set()
        self._ended = 0
        self._counts: dict[str, tuple[int, int]] = {}
        self._preparation: str | None = None
        self._noun = ""
        self._tenth: int | None = None
        self._stopping = False

    def changes(self, state: LiveState) -> Iterator[str]:
        """Yield the lines that are new with ``state``."""
        if state.noun != self._noun:
            # Trials are over; confirmation runs count from here on.
            self._noun, self._tenth, self._counts = state.noun, None, {}
        if state.preparation and state.preparation != self._preparation:
            yield f"{state.study}: {state.preparation}"
        self._preparation = state.preparation
        if self._tenth is None:
            yield from self._overall(state)
        yield from self._ended_jobs(state)
        if not state.preparation:
            for job in state.running:
                if job.label not in self._running:
                    yield f"{job.label} started"
        self._running = {job.label for job in state.running}
        yield from self._overall(state)
        if state.stopping and not self._stopping:
            yield f"{state.study}: stopping after the running trials"
        self._stopping = state.stopping

    def _ended_jobs(self, state: LiveState) -> Iterator[str]:
        new = state.ended[self._ended :]
        self._ended = len(state.ended)
        for job in new:
            yield _ended_line(job)
        for arm in state.arms:
            before = self._counts.get(arm.name)
            self._counts[arm.name] = (arm.done, arm.failed)
            named = any(job.label.startswith(f"{arm.name} #") for job in new)
            # Counts that grow without a named trial are worth a line of their own.
            if before is not None and before != (arm.done, arm.failed) and not named:
                best = "" if arm.best is None else f", best {arm.best:.4g}"
                failed = f", {arm.failed} failed" if arm.failed else ""
                ended = f"{arm.done} of {arm.budget} {state.noun} completed"
                yield f"{arm.name}: {ended}{failed}{best}"

    def _overall(self, state: LiveState) -> Iterator[str]:
        if state.preparation or not state.budget:
            return
        tenth = math.floor(state.fraction * 10 + 1e-9)
        trials = f"{state.ended_trials} of {state.budget} {state.noun}"
        if self._tenth is None:
            yield f"{state.study}: {trials} done"
        elif tenth > self._tenth:
            left = ""
            if state.seconds_left is not None and tenth < 10:
                left = f", {formatting.time_left(state.seconds_left)} left"
            yield f"{state.study}: {tenth * 10} % ({trials}{left})"
        self._tenth = tenth if self._tenth is None else max(self._tenth, tenth)
