"""Several studies next to each other in the terminal, and as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text

from sweeper.analysis.across_studies import AcrossPair, Replication, StudiesComparison, StudySummary
from sweeper.reporting.console import bulleted, part, plain_table
from sweeper.reporting.tables import verdict
from sweeper.reporting.tables.grids import Grid, narrowed
from sweeper.reporting.tables.verdict import DIGITS
from sweeper.reporting.text import formatting
from sweeper.reporting.text.pair import mean
from sweeper.reporting.text.terminal_escape import visible

LONGEST_VALUE = 40
"""Most characters of a setting's value in the table of differences."""


def studies_json(comparison: StudiesComparison) -> dict[str, Any]:
    """Return what ``sweeper compare --json`` prints."""
    # In pydantic's own JSON, a number that is not finite is null.
    plain: dict[str, Any] = json.loads(comparison.model_dump_json())
    return {**plain, "headline": headline(comparison), "notes": notes(comparison)}


def headline(comparison: StudiesComparison) -> str:
    """Return how the studies are related in a sentence."""
    count = len(comparison.studies)
    if comparison.relation == "seeds":
        return f"{count} studies that differ only in their seed."
    keys = dict.fromkeys(setting.key.split(".")[0] for setting in comparison.different)
    keys.pop("study", None)
    return f"{count} studies that differ in {formatting.listed(visible(key) for key in keys)}."


def notes(comparison: StudiesComparison) -> list[str]:
    """Return what a reader needs in order to read the numbers."""
    sentences = list(comparison.refused)
    if comparison.across:
        sentences.append(
            "Arms of different studies are paired by document, not by seed. Their intervals (95 %)"
            " cover other seeds of these winners and other documents, not other searches. They are"
            " not corrected for multiple comparisons."
        )
    if any(min(pair.seeds) == 1 for pair in comparison.across):
        sentences.append("For an arm with one seed, intervals do not cover other seeds.")
    if comparison.replications:
        same = all(pair.same_documents for pair in comparison.replications)
        sentences.append(
            "The interval over studies (95 %) takes each study's difference, averaged over seeds,"
            f" as one draw of a study seed{', crossed with the documents' if same else ''}."
        )
    return sentences


@dataclass(frozen=True)
class StudiesView:
    """View of several studies: their results, what differs, arms across studies."""

    comparison: StudiesComparison

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        comparison = self.comparison
        yield Text(headline(comparison), style="bold")
        for title, grid in _grids(comparison):
            yield part(title, narrowed(grid, console, options))
        yield part("What differs", _settings(comparison))
        if comparison.same:
            same = formatting.listed(visible(key) for key in comparison.same)
            yield Text(f"Same in all studies: {same}.", style="dim")
        if sentences := notes(comparison):
            yield ""
            yield bulleted(sentences)


def _grids(comparison: StudiesComparison) -> Iterator[tuple[str, Grid]]:
    yield "The best arm of each study, by the selection suite", _best_arms(comparison.studies)
    if any(study.pairs for study in comparison.studies):
        yield "The verdict of each study", _verdicts(comparison.studies)
    if any(study.teachers for study in comparison.studies):
        yield "The pair of each study before training, beside what came out", _teachers(comparison)
    for at in dict.fromkeys(pair.at for pair in comparison.replications):
        pairs = [pair for pair in comparison.replications if pair.at == at]
        title = f"Over the seeds of {len(pairs[0].studies)} studies, at equal {_words(at)}"
        yield title, _replications(pairs)
    if comparison.across:
        title = f"Arms of the other studies against those of {comparison.studies[0].study}"
        yield f"{title}, on the same documents", _across(comparison.across)


def _best_arms(studies: Sequence[StudySummary]) -> Grid:
    rows = [
        [
            study.study,
            study.best_arm or formatting.NOTHING,
            verdict.interval(study.test) if study.test else formatting.NOTHING,
            formatting.percent(study.gap_closed),
            formatting.NOTHING
            if (cost := study.device_seconds) is None
            else formatting.seconds(cost),
            formatting.score(study.selection, DIGITS),
            str(study.seed),
        ]
        for study in studies
    ]
    header = ("study", "best arm", "test score [95 %]", "gap closed", "device seconds")
    return Grid((*header, "selection score", "study seed"), rows, left=("best arm",))


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
                    p = formatting.p_number(pair.p_adjusted)
                    rows.append([name, verdict.difference(pair), pair.conclusion, p])
    header = ("comparison", "difference [95 %]", "the first is", "p adjusted")
    return Grid(header, rows, left=("the first is",))


def _teachers(comparison: StudiesComparison) -> Grid:
    rows = []
    for study in comparison.studies:
        for pair in study.teachers:
            ours, theirs = pair.answers["student"], pair.answers["teacher"]
            rows.append(
                [
                    study.study,
                    visible(pair.teacher),
                    mean(ours.shared_mass["student"]),
                    mean(ours.divergence),
                    mean(theirs.divergence),
                    mean(pair.other_first_token),
                    formatting.percent(study.gap_closed),
                ]
            )
    header = ("study", "teacher", "shared top tokens [95 %]", "KL(student‖teacher)")
    return Grid(
        (*header, "KL(teacher‖student)", "other first token", "gap closed"), rows, left=("teacher",)
    )


def _replications(replications: Sequence[Replication]) -> Grid:
    rows = [
        [
            f"{pair.arm} − {pair.against}",
            verdict.signed_interval(pair.mean, pair.interval),
            ", ".join(f"{count} {name}" for name, count in pair.conclusions.items()),
            f"{pair.deviation:.{DIGITS}f}",
        ]
        for pair in replications
    ]
    header = ("comparison", "mean [95 %]", "the first is", "deviation between studies")
    return Grid(header, rows, left=("the first is",))


def _across(pairs: Sequence[AcrossPair]) -> Grid:
    rows = []
    for pair in pairs:
        other = "" if pair.arm == pair.against_arm else f" − {pair.against_arm}"
        rows.append(
            [
                f"{pair.study}: {pair.arm}{other}",
                verdict.signed_interval(pair.difference, pair.interval),
                f"{pair.seeds[0]}, {pair.seeds[1]}",
                f"{pair.documents:,}",
            ]
        )
    return Grid(("arm", "difference [95 %]", "seeds", "documents"), rows)


def _words(measure: str) -> str:
    return measure.replace("_", " ")


def _settings(comparison: StudiesComparison) -> Table:
    table = plain_table()
    table.add_column("key", overflow="fold")
    for study in comparison.studies:
        table.add_column(Text(study.study), overflow="fold")
    for setting in comparison.different:
        if setting.key != "study":
            table.add_row(Text(visible(setting.key)), *map(_value, setting.values))
    return table


def _value(value: Any) -> Text:
    values = value if isinstance(value, list) else [value]
    text = ", ".join(
        formatting.NOTHING if part is None else formatting.number(part, 6) for part in values
    )
    return Text(formatting.shortened(text, LONGEST_VALUE))
