"""Several studies side by side in the terminal, and as JSON."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text

from sweeper.analysis.across_studies import AcrossPair, Replication, StudiesComparison, StudySummary
from sweeper.analysis.comparison import Score
from sweeper.reporting.console import bulleted, heading, plain_table
from sweeper.reporting.tables import verdict
from sweeper.reporting.tables.grids import Grid, narrowed
from sweeper.reporting.tables.verdict import DIGITS
from sweeper.reporting.text import formatting
from sweeper.reporting.text.terminal_escape import visible

LONGEST_VALUE = 40
"""Characters of a setting's value in the table of differences."""


def studies_view(found: StudiesComparison) -> RenderableType:
    """What several studies found, what differs between them, and their arms against each other."""
    return _StudiesView(found)


def studies_json(found: StudiesComparison) -> dict[str, Any]:
    """What ``sweeper compare --json`` prints."""
    plain: dict[str, Any] = _finite(found.model_dump(mode="json"))
    return {**plain, "headline": headline(found), "notes": notes(found)}


def headline(found: StudiesComparison) -> str:
    """How the studies are related, in a sentence."""
    count = len(found.studies)
    if found.relation == "seeds":
        return f"{count} studies that are the same but for their seed."
    keys = dict.fromkeys(setting.key.split(".")[0] for setting in found.different)
    keys.pop("study", None)
    return f"{count} studies that differ in {formatting.listed(visible(key) for key in keys)}."


def notes(found: StudiesComparison) -> list[str]:
    """What a reader must know to read the numbers rightly."""
    told = list(found.refused)
    if found.across:
        told.append(
            "Arms of different studies are paired by document, not by seed. Their intervals (95 %)"
            " hold for other seeds of these winners and for other documents, not for other"
            " searches, and are not corrected for their number."
        )
    if any(min(pair.seeds) == 1 for pair in found.across):
        told.append("Of an arm with one seed nothing is known of others.")
    if found.replications:
        same = all(one.same_documents for one in found.replications)
        told.append(
            "The interval over studies (95 %) takes each study's difference, seeds averaged, for"
            " one draw of a study's seed"
            + (", on documents that are crossed with it." if same else ".")
        )
    return told


class _StudiesView:
    def __init__(self, found: StudiesComparison) -> None:
        self._found = found

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        found = self._found
        yield Text(headline(found), style="bold")
        for title, grid in _grids(found):
            yield ""
            yield heading(title)
            yield narrowed(grid, console, options)
        yield ""
        yield heading("What differs")
        yield _settings(found)
        if found.same:
            same = formatting.listed(visible(key) for key in found.same)
            yield Text(f"The same in all: {same}.", style="dim")
        if told := notes(found):
            yield ""
            yield bulleted(told)


def _grids(found: StudiesComparison) -> Iterator[tuple[str, Grid]]:
    yield "The best arm of each study, by the selection suite", _best_arms(found.studies)
    if any(study.pairs for study in found.studies):
        yield "The verdict of each study", _verdicts(found.studies)
    for at in dict.fromkeys(one.at for one in found.replications):
        those = [one for one in found.replications if one.at == at]
        title = f"Over the seeds of {len(those[0].studies)} studies, at equal {_words(at)}"
        yield title, _replications(those)
    if found.across:
        title = f"Arms of the other studies against those of {found.studies[0].study}"
        yield f"{title}, on the same documents", _across(found.across)


def _best_arms(studies: Sequence[StudySummary]) -> Grid:
    rows = []
    for one in studies:
        seconds = one.device_seconds
        rows.append(
            [
                one.study,
                one.best_arm or formatting.NOTHING,
                formatting.NOTHING if one.test is None else verdict.interval(one.test),
                formatting.percent(one.gap_closed),
                formatting.NOTHING if seconds is None else formatting.seconds(seconds),
                _selection(one.selection),
                str(one.seed),
            ]
        )
    header = ("study", "best arm", "test score [95 %]", "gap closed", "device seconds")
    return Grid((*header, "selection in the search", "study seed"), rows, left=("best arm",))


def _selection(score: Score | None) -> str:
    return formatting.score(score, DIGITS)


def _verdicts(studies: Sequence[StudySummary]) -> Grid:
    rows = []
    for study in studies:
        if not study.pairs:
            rows.append([f"{study.study}: nothing was confirmed", "", "", ""])
        for at in dict.fromkeys(pair.at for pair in study.pairs):
            rows.append([f"{study.study}, at equal {_words(at)}", "", "", ""])
            for pair in study.pairs:
                if pair.at == at:
                    name = f"  {pair.arm} − {pair.against}"
                    difference = verdict.difference(pair)
                    rows.append(
                        [name, difference, pair.conclusion, formatting.p_number(pair.p_adjusted)]
                    )
    header = ("comparison", "difference [95 %]", "the first is", "p adjusted")
    return Grid(header, rows, left=("the first is",))


def _replications(replications: Sequence[Replication]) -> Grid:
    rows = []
    for one in replications:
        counted = [f"{count} {name}" for name, count in one.conclusions.items()]
        rows.append(
            [
                f"{one.arm} − {one.against}",
                _signed(one.mean, one.interval),
                ", ".join(counted),
                f"{one.deviation:.{DIGITS}f}",
            ]
        )
    header = ("comparison", "mean [95 %]", "the first is", "deviation of studies")
    return Grid(header, rows, left=("the first is",))


def _across(pairs: Sequence[AcrossPair]) -> Grid:
    rows = []
    for pair in pairs:
        other = "" if pair.arm == pair.against_arm else f" − {pair.against_arm}"
        rows.append(
            [
                f"{pair.study}: {pair.arm}{other}",
                _signed(pair.difference, pair.interval),
                f"{pair.seeds[0]}, {pair.seeds[1]}",
                f"{pair.documents:,}",
            ]
        )
    return Grid(("arm", "difference [95 %]", "seeds", "documents"), rows)


def _signed(mean: float, interval: tuple[float, float]) -> str:
    low, high = (formatting.signed(end, DIGITS) for end in interval)
    return f"{formatting.signed(mean, DIGITS)} [{low}, {high}]"


def _words(measure: str) -> str:
    return measure.replace("_", " ")


def _settings(found: StudiesComparison) -> Table:
    table = plain_table()
    table.add_column("key", overflow="fold")
    for study in found.studies:
        table.add_column(Text(study.study), overflow="fold")
    for setting in found.different:
        if setting.key != "study":
            table.add_row(Text(visible(setting.key)), *map(_value, setting.values))
    return table


def _value(value: Any) -> Text:
    values = value if isinstance(value, list) else [value]
    text = ", ".join(
        formatting.NOTHING if one is None else formatting.number(one, 6) for one in values
    )
    return Text(text if len(text) <= LONGEST_VALUE else f"{text[: LONGEST_VALUE - 1]}…")


def _finite(value: Any) -> Any:
    """``value`` with None for every number that JSON cannot hold."""
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
