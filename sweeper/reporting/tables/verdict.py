"""The verdict in the terminal, and the cells of its tables, which the report shares.

If all comparisons share one arm, the reference, a single table shows each arm's score and its
difference to the reference. A narrow terminal, or comparisons of all pairs, take two tables.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.text import Text

from sweeper.analysis.verdict_records import ArmVerdict, Interval, PairVerdict, Verdict
from sweeper.reporting.console import bulleted, fits, part
from sweeper.reporting.tables import grids
from sweeper.reporting.tables.grids import Grid
from sweeper.reporting.text import formatting
from sweeper.reporting.text.headline import verdict_headline
from sweeper.reporting.text.verdict import explanations, notes

DIGITS = 3
"""Decimals of scores and differences."""


def measures(verdict: Verdict) -> list[str]:
    """Return the measures of cost at which the arms were compared."""
    return list(dict.fromkeys(pair.at for pair in verdict.pairs))


def title(verdict: Verdict, at: str) -> str:
    """Return the title of the table at a measure of cost."""
    return f"The winners on the test suite {verdict.suite}, at equal {at.replace('_', ' ')}"


def reference(verdict: Verdict, at: str) -> str | None:
    """Return the arm that all comparisons share; None if there is none."""
    arms = {pair.arm for pair in verdict.pairs if pair.at == at}
    return arms.pop() if len(arms) == 1 else None


def whole_grid(verdict: Verdict, at: str) -> Grid:
    """Build the arms' scores and costs, with the differences to a ``reference`` if there is one."""
    arms = arms_grid(verdict, at)
    ours = reference(verdict, at)
    if ours is None:
        return arms
    pairs = {pair.against: pair for pair in verdict.pairs if pair.at == at}
    header = (*arms.header[:2], *_pair_header(f"{ours} − arm", f"{ours} is"), *arms.header[2:])
    trained = [arm.arm for arm in verdict.at(at)]
    middle = []
    for name in (*(row[0] for row in arms.rows[: arms.ends]), *trained):
        none = formatting.NOTHING if name in trained else ""
        none = "reference" if name == ours else none
        middle.append(_pair_cells(pairs[name]) if name in pairs else [none, "", ""])
    rows = [[*row[:2], *cells, *row[2:]] for row, cells in zip(arms.rows, middle, strict=True)]
    return Grid(header, rows, arms.ends, left=(f"{ours} is",))


def arms_grid(verdict: Verdict, at: str) -> Grid:
    """Build the scores and costs of teacher, start and arms."""
    header = ("arm", "test score [95 %]", "gap closed", "selection bias", "steps", "device seconds")
    scored = {"teacher": verdict.teacher, "start": verdict.starting_student}
    ends = [[name, interval(end), *[""] * (len(header) - 2)] for name, end in scored.items() if end]
    return Grid(header, [*ends, *map(_arm_cells, verdict.at(at))], len(ends))


def pairs_grid(verdict: Verdict, at: str) -> Grid:
    """Build the differences of all pairs."""
    pairs = (pair for pair in verdict.pairs if pair.at == at)
    rows = [[f"{pair.arm} − {pair.against}", *_pair_cells(pair)] for pair in pairs]
    conclusion = "the first is"
    return Grid(("comparison", *_pair_header("difference", conclusion)), rows, left=(conclusion,))


def interval(mean: Interval) -> str:
    """Format a mean such as ``0.412 [0.361, 0.463]``."""
    return f"{mean.mean:.{DIGITS}f} [{mean.low:.{DIGITS}f}, {mean.high:.{DIGITS}f}]"


def difference(pair: PairVerdict) -> str:
    """Format the difference of a pair such as ``+0.105 [+0.021, +0.190]``."""
    return signed_interval(pair.difference, pair.interval)


def signed_interval(mean: float, ends: tuple[float, float]) -> str:
    """Format a signed mean with its interval."""
    low, high = (formatting.signed(end, DIGITS) for end in ends)
    return f"{formatting.signed(mean, DIGITS)} [{low}, {high}]"


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
    """Format the gap closed with its interval: ``31 % (5 to 58)``."""
    share = formatting.percent(arm.gap_closed)
    if arm.gap_interval is None:
        return share
    low, high = (f"{end * 100:.0f}" for end in arm.gap_interval)
    return f"{share} ({low} to {high})"


@dataclass(frozen=True)
class VerdictView:
    """View of the verdict that fits the width of the terminal."""

    verdict: Verdict

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        verdict = self.verdict
        yield Text(verdict_headline(verdict), style="bold")
        for at in measures(verdict):
            yield part(title(verdict, at), *_tables(verdict, at, console, options))
        yield ""
        yield bulleted([*explanations(verdict), *notes(verdict)])


def _tables(
    verdict: Verdict, at: str, console: Console, options: ConsoleOptions
) -> Iterator[RenderableType]:
    if reference(verdict, at) is not None:
        whole = whole_grid(verdict, at)
        shorter = grids.without(whole, "steps")
        # Device seconds stand under "Matched conditions", too.
        for grid in (whole, shorter, grids.without(shorter, "device seconds")):
            if fits(table := grids.drawn(grid), console, options):
                yield table
                return
    yield grids.narrowed(arms_grid(verdict, at), console, options)
    yield ""
    yield grids.narrowed(pairs_grid(verdict, at), console, options)
