"""The sections of a report about the search."""

from __future__ import annotations

from collections.abc import Iterator

from matplotlib.figure import Figure

from sweeper.analysis.comparison import Comparison
from sweeper.reporting.markdown.importance import search_plots, search_sections
from sweeper.reporting.plots import search as drawings
from sweeper.reporting.report_data import ReportData
from sweeper.reporting.text import device_faults, formatting
from sweeper.reporting.text.headline import search_headline
from sweeper.reporting.text.markdown_escape import cell, inline, table
from sweeper.reporting.text.search import notes
from sweeper.reporting.text.server_costs import EXPLANATION, TITLE, server_row, shares


def plots(page: ReportData) -> dict[str, Figure | None]:
    """Draw the search's plots by file name; None for one with nothing to show."""
    return {
        "progress.png": drawings.progress_plot(page.comparison),
        "cost.png": drawings.cost_plot(page.record, page.comparison),
        **search_plots(page.record, page.comparison, page.search),
    }


def sections(page: ReportData, images: set[str]) -> Iterator[str]:
    """Yield the arms on the selection suite, the plots, and the Pareto fronts."""
    comparison = page.comparison
    yield "## The search"
    if page.verdict is not None:
        yield inline(search_headline(comparison))
    yield _comparison_table(comparison)
    if sentences := notes(comparison):
        yield "\n".join(f"- {inline(note)}" for note in sentences)
    yield _cost_table(comparison)
    if seconds := comparison.preparation_cost.device_seconds:
        paid = comparison.preparation_cost.servers
        yield (
            "Device-seconds include training and evaluation. Preparing and scoring the teacher and"
            f" the starting student took another {formatting.seconds(seconds)} device-seconds"
            f"{f' ({shares(paid)})' if paid else ''}, shared by all arms and not included in these"
            " numbers."
        )
    yield from _servers(page)
    yield from _device_faults(page)
    yield from _plots(images)
    yield from _fronts(comparison)
    yield from search_sections(comparison, page.search, images)


def _comparison_table(comparison: Comparison) -> str:
    digits = formatting.comparison_digits(comparison)
    states = f"trials {formatting.trial_states(comparison)}"
    header = ["arm", states, "score", "to the best offline arm", "gap closed"]
    header.append("device-seconds of the best trial")
    closed = any(arm.gap_closed is not None for arm in comparison.arms)
    rows = []
    for label, value, gap in (
        ("*teacher = ceiling*", comparison.teacher, "100 %" if closed else ""),
        ("*starting student = floor*", comparison.starting_student, "0 %" if closed else ""),
    ):
        if value is not None:
            rows.append([label, "", formatting.score(value, digits), "", gap, ""])
    for arm in comparison.arms:
        name, cost = formatting.arm_name(arm), formatting.best_cost(arm)
        rows.append(
            [
                f"**{name}**" if arm.name in comparison.leaders else name,
                formatting.trial_counts(arm, comparison),
                formatting.score(arm.best_score, digits),
                formatting.difference(arm.difference, digits) if cost else "",
                formatting.percent(arm.gap_closed) if cost else "",
                formatting.seconds(cost.device_seconds) if cost else "",
            ]
        )
    return table(header, rows, left=(0,))


def _cost_table(comparison: Comparison) -> str:
    rows = []
    served = any(arm.cost.servers for arm in comparison.arms)
    for arm in comparison.arms:
        cost = formatting.best_cost(arm)
        costs = [str(cost.steps), formatting.tokens(cost)] if cost else ["", ""]
        settings, seconds = formatting.best_settings(arm), arm.cost.device_seconds
        paid = sum(arm.cost.servers.values())
        costs += [formatting.seconds(seconds), *([formatting.seconds(paid)] if served else [])]
        rows.append([arm.name, cell(settings), *costs])
    header = ["arm", "best settings", "their steps", "their tokens trained / sampled"]
    header += ["device-seconds of all trials", *(["of these, servers"] if served else [])]
    return table(header, rows, left=(0, 1))


def _servers(page: ReportData) -> Iterator[str]:
    """Yield the servers of served models with what they cost, if there were any."""
    if not page.record.servers:
        return
    rows = [[cell(text) for text in server_row(s).values()] for s in page.record.servers]
    yield f"### {TITLE}"
    yield table([*server_row(page.record.servers[0])], rows, left=(0, 1, 2, 6))
    yield EXPLANATION


def _device_faults(page: ReportData) -> Iterator[str]:
    """Yield the devices that failed, if any did."""
    if faults := page.record.device_faults:
        yield f"### {device_faults.TITLE}"
        yield "\n".join(f"- {inline(line)}." for line in device_faults.device_lines(faults))
        yield device_faults.EXPLANATION


def _plots(images: set[str]) -> Iterator[str]:
    readings = {
        "progress.png": (
            "Score by trial",
            "Points are trials, lines each arm's best so far; an arm with a single trial is a mark."
            " An arm whose line still rises at the right end might gain from more trials.",
        ),
        "cost.png": (
            "Score against cost",
            "Faint points are trials, large points each arm's best. Of two arms at the same height,"
            " the one further left is cheaper.",
        ),
    }
    for name, (title, reading) in readings.items():
        if name in images:
            yield f"### {title}"
            yield f"![{title}]({name})"
            yield reading


def _fronts(comparison: Comparison) -> Iterator[str]:
    if not any(arm.front for arm in comparison.arms):
        return
    digits = formatting.comparison_digits(comparison)
    rows = [
        [
            arm.name,
            str(point.trial.number),
            *(formatting.objective(name, value, digits) for name, value in point.values.items()),
            cell(formatting.settings(point.trial.params)) or formatting.NOTHING,
        ]
        for arm in comparison.arms
        for point in arm.front
    ]
    yield "### Pareto fronts"
    yield (
        "Trials that no other trial of their arm beats in one objective without being worse in"
        " another. The comparison above uses the score alone."
    )
    names = [name.replace("_", " ") for name in comparison.objectives]
    yield table(["arm", "trial", *names, "settings"], rows, left=(0, len(names) + 2))
