"""The verdict in the terminal, and the cells of its tables, which the report shares.

Where all comparisons have one arm in common, the reference, a single table has each arm's score and
its difference to the reference. It is taken apart where the terminal is too narrow, or where every
arm is compared with every other one.
"""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.text import Text

from sweeper.analysis.verdict import ArmVerdict, Interval, PairVerdict, Verdict
from sweeper.reporting.console import bulleted, heading
from sweeper.reporting.tables import grids
from sweeper.reporting.tables.grids import Grid
from sweeper.reporting.text import formatting
from sweeper.reporting.text.verdict import explanations, headline, notes

DIGITS = 3
"""After the point."""


def verdict_view(verdict: Verdict) -> RenderableType:
    """What a study proves."""
    return _VerdictView(verdict)


def measures(verdict: Verdict) -> list[str]:
    """The measures at which the arms were compared."""
    return list(dict.fromkeys(pair.at for pair in verdict.pairs))


def title(verdict: Verdict, at: str) -> str:
    """Of the table at a measure of cost."""
    return f"The winners on the test suite {verdict.suite}, at equal {at.replace('_', ' ')}"


def reference(verdict: Verdict, at: str) -> str | None:
    """The arm that every comparison is about; None if they have none in common."""
    found = {pair.arm for pair in verdict.pairs if pair.at == at}
    return found.pop() if len(found) == 1 else None


def whole_grid(verdict: Verdict, at: str) -> Grid:
    """Scores and costs of the arms and, if there is a ``reference``, the differences to it."""
    arms = arms_grid(verdict, at)
    ours = reference(verdict, at)
    if ours is None:
        return arms
    pairs = {pair.against: pair for pair in verdict.pairs if pair.at == at}
    header = (*arms.header[:2], *_pair_header(f"{ours} − arm", f"{ours} is"), *arms.header[2:])
    empty = [""] * 3
    middle = [empty] * arms.ends
    for arm in verdict.at(at):
        pair = pairs.get(arm.arm)
        none = ["reference" if arm.arm == ours else formatting.NOTHING, "", ""]
        middle.append(_pair_cells(pair) if pair else none)
    rows = [[*row[:2], *cells, *row[2:]] for row, cells in zip(arms.rows, middle, strict=True)]
    return Grid(header, rows, arms.ends, left=(f"{ours} is",))


def arms_grid(verdict: Verdict, at: str) -> Grid:
    """Scores and costs of teacher, start and arms."""
    header = ("arm", "test score [95 %]", "gap closed", "search's luck", "steps", "device seconds")
    known = {"teacher": verdict.teacher, "start": verdict.starting_student}
    ends = [[name, interval(end), *[""] * (len(header) - 2)] for name, end in known.items() if end]
    return Grid(header, [*ends, *map(_arm_cells, verdict.at(at))], len(ends))


def pairs_grid(verdict: Verdict, at: str) -> Grid:
    """The differences."""
    rows = [
        [f"{pair.arm} − {pair.against}", *_pair_cells(pair)]
        for pair in verdict.pairs
        if pair.at == at
    ]
    conclusion = "the first is"
    return Grid(("comparison", *_pair_header("difference", conclusion)), rows, left=(conclusion,))


def interval(found: Interval) -> str:
    """``0.412 [0.361, 0.463]``."""
    return f"{found.mean:.{DIGITS}f} [{found.low:.{DIGITS}f}, {found.high:.{DIGITS}f}]"


def difference(pair: PairVerdict) -> str:
    """``+0.105 [+0.021, +0.190]``."""
    low, high = (formatting.signed(end, DIGITS) for end in pair.interval)
    return f"{formatting.signed(pair.difference, DIGITS)} [{low}, {high}]"


def _pair_header(name: str, conclusion: str) -> tuple[str, str, str]:
    return f"{name} [95 %]", "p adjusted", conclusion


def _pair_cells(pair: PairVerdict) -> list[str]:
    return [difference(pair), formatting.p_number(pair.p_adjusted), pair.conclusion]


def _arm_cells(arm: ArmVerdict) -> list[str]:
    return [
        f"{arm.arm} #{arm.trial}",
        interval(arm.test),
        gap(arm),
        formatting.signed(arm.inflation, DIGITS),
        f"{arm.max_steps:,}",
        formatting.seconds(arm.device_seconds),
    ]


def gap(arm: ArmVerdict) -> str:
    """The share of the gap that was closed, with its interval: ``31 % (5 to 58)``."""
    told = formatting.percent(arm.gap_closed)
    if arm.gap_interval is None:
        return told
    low, high = (f"{end * 100:.0f}" for end in arm.gap_interval)
    return f"{told} ({low} to {high})"


class _VerdictView:
    def __init__(self, verdict: Verdict) -> None:
        self._verdict = verdict

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        verdict = self._verdict
        yield Text(headline(verdict), style="bold")
        for at in measures(verdict):
            yield ""
            yield heading(title(verdict, at))
            yield from _tables(verdict, at, console, options)
        yield ""
        yield bulleted([*explanations(verdict), *notes(verdict)])


def _tables(
    verdict: Verdict, at: str, console: Console, options: ConsoleOptions
) -> Iterator[RenderableType]:
    if reference(verdict, at) is not None:
        whole = whole_grid(verdict, at)
        shorter = grids.without(whole, "steps")
        # What trainings took stands under "Equal footing" as well.
        for grid in (whole, shorter, grids.without(shorter, "device seconds")):
            if grids.fits(table := grids.drawn(grid), console, options):
                yield table
                return
    yield grids.narrowed(arms_grid(verdict, at), console, options)
    yield ""
    yield grids.narrowed(pairs_grid(verdict, at), console, options)
