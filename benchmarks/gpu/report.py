"""The figures of the command, as tables for the terminal and for ``docs/speed.md``."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

NAMES = {
    "ours": "sweeper",
    "distillation_trainer": "TRL distillation",
    "stock_tuned": "TRL GKD, tuned",
    "generate": "model.generate",
}
"""Names of the engines in tables."""
_BASES = ("ours", "sweeper")
_NONE = "–"
_NOTE = (
    "Seconds and synchronisations are those of one optimiser step. TRL's trainers count the teacher"
    " as the student. The ratio is sweeper's tokens a second to the engine's."
)


@dataclass(frozen=True)
class Line:
    """What one engine gave in one row, over its rounds.

    Attributes:
        row: Name of the row and its pair.
        engine: Name of the engine.
        turns: Turns that were measured.
        failed: Message of the first that was not.
        ratio: How many times better ours is, with the lowest and the highest of the rounds.
        rollouts: True if only rollouts were sampled.
    """

    row: tuple[str, str]
    engine: str
    turns: tuple[dict[str, Any], ...]
    failed: str | None
    ratio: tuple[float, float, float] | None
    rollouts: bool

    def value(self, read: Callable[[dict[str, Any]], float | None]) -> float | None:
        """Return the median of a figure over the turns that have it."""
        found = [value for turn in self.turns if (value := read(turn)) is not None]
        return median(found) if found else None


def lines(report: dict[str, Any]) -> list[Line]:
    """Return the lines of the tables, by rows in the order of their first turn."""
    by_row: dict[tuple[str, str], dict[str, list[dict[str, Any]]]] = {}
    for turn in report["turns"]:
        if turn["state"] != "left out":
            engines = by_row.setdefault((turn["row"], turn["pair"]), {})
            engines.setdefault(turn["engine"], []).append(turn)
    found = []
    for row, engines in by_row.items():
        ours = next((engines[base] for base in _BASES if base in engines), [])
        for engine, turns in engines.items():
            failures = [turn["message"] for turn in turns if turn["state"] == "failed"]
            found.append(
                Line(
                    row,
                    engine,
                    tuple(turn for turn in turns if turn["state"] == "measured"),
                    failures[0] if failures else None,
                    None if engine in _BASES else _ratio(ours, turns),
                    turns[0]["kind"] == "rollouts",
                )
            )
    return found


def speed(turn: dict[str, Any]) -> float:
    """Return the tokens per second of a turn: trained on, or else sampled; of all trials."""
    each = turn["processes"]
    if turn["kind"] == "rollouts":
        return float(each[0]["generated_per_second"])
    # The processes of one trial count those of all of them.
    return float(sum(found["tokens_per_second"] for found in each[:: turn["devices"]]))


def _ratio(
    ours: Sequence[dict[str, Any]], theirs: Sequence[dict[str, Any]]
) -> tuple[float, float, float] | None:
    """Return how many times faster ours is, by the rounds that both were measured in."""
    by_round = {turn["round"]: speed(turn) for turn in ours if turn["state"] == "measured"}
    ratios = [
        by_round[turn["round"]] / speed(turn)
        for turn in theirs
        if turn["state"] == "measured" and turn["round"] in by_round
    ]
    return (median(ratios), min(ratios), max(ratios)) if ratios else None


def _step(turn: dict[str, Any]) -> float:
    return max(median(found["seconds"]) for found in turn["processes"])


def _part(name: str) -> Callable[[dict[str, Any]], float | None]:
    return lambda turn: turn["processes"][0].get("parts", {}).get(name)


def _peak(turn: dict[str, Any]) -> float | None:
    peaks = [found.get("peak", {}) for found in turn["processes"]]
    sizes = [peak.get("total", peak.get("reserved")) for peak in peaks]
    known = [size for size in sizes if size is not None]
    return max(known) if known else None


def _forecast(turn: dict[str, Any]) -> float | None:
    found: float | None = turn.get("forecast", {}).get("total")
    return found


def _waits(turn: dict[str, Any]) -> float | None:
    found: float | None = turn["processes"][0].get("synchronisations")
    return found


_SPEED: tuple[tuple[str, Callable[[dict[str, Any]], float | None]], ...] = (
    ("s/step", _step),
    ("rollout", _part("rollout")),
    ("teacher", _part("teacher")),
    ("student", _part("student")),
    ("optim.", _part("optimiser")),
    ("tokens/s", speed),
)
_MEMORY: tuple[tuple[str, Callable[[dict[str, Any]], float | None]], ...] = (
    ("peak, GiB", _peak),
    ("forecast", _forecast),
    ("synchronisations", _waits),
)


def tables(report: dict[str, Any]) -> RenderableType:
    """Return what the terminal shows: seconds and speed, memory and waits, and what is missing."""
    found = lines(report)
    speeds = _table(found, _SPEED, last="ratio")
    trained = [line for line in found if not line.rollouts]
    memory = _table(trained, _MEMORY)
    missing = Text("\n".join(_missing(report)), style="yellow")
    note = Text(_NOTE, style="dim")
    return Group(Text(_heading(report), style="bold"), speeds, Text(), memory, note, missing)


def _table(
    found: Sequence[Line],
    columns: Sequence[tuple[str, Callable[[dict[str, Any]], float | None]]],
    last: str | None = None,
) -> Table:
    """Return a table with a line for each engine below one for each row."""
    shown = Table(box=None, header_style="dim", pad_edge=False, padding=(0, 0, 0, 1))
    shown.add_column("", no_wrap=True)
    for name, _ in columns:
        shown.add_column(name, justify="right", no_wrap=True)
    if last:
        shown.add_column(last, justify="right", no_wrap=True)
    before = None
    for line in found:
        if line.row != before:
            name, pair = line.row
            shown.add_row(Text(name, style="bold"))
            shown.add_row(Text(f" {pair}", style="dim"))
            before = line.row
        values = [_number(line.value(read)) for _, read in columns]
        ratio = [f"{line.ratio[0]:.2f}×" if line.ratio else ""] if last else []
        shown.add_row(escape(f"  {NAMES.get(line.engine, line.engine)}"), *values, *ratio)
    return shown


def markdown(report: dict[str, Any]) -> str:
    """Return the tables of ``docs/speed.md``."""
    found = lines(report)
    spread = [
        f"{line.ratio[0]:.2f}× ({line.ratio[1]:.2f}–{line.ratio[2]:.2f})" if line.ratio else ""
        for line in found
    ]
    trained = [line for line in found if not line.rollouts]
    parts = [
        _heading(report),
        _markdown_table(found, _SPEED, ("ratio (spread)", spread)),
        _markdown_table(trained, _MEMORY),
        _NOTE,
        "\n".join(f"- {line}" for line in _missing(report)),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _markdown_table(
    found: Sequence[Line],
    columns: Sequence[tuple[str, Callable[[dict[str, Any]], float | None]]],
    last: tuple[str, Sequence[str]] | None = None,
) -> str:
    heads = ["", "pair", "engine", *(name for name, _ in columns)]
    rows = [
        [
            f"`{line.row[0]}`",
            line.row[1],
            NAMES.get(line.engine, line.engine),
            *(_number(line.value(read)) for _, read in columns),
        ]
        for line in found
    ]
    if last:
        heads.append(last[0])
        rows = [[*row, cell] for row, cell in zip(rows, last[1], strict=True)]
    rule = ["---"] * 3 + ["---:"] * (len(heads) - 3)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (heads, rule, *rows))


def _number(value: float | None) -> str:
    if value is None:
        return _NONE
    if value >= 1000 or value == int(value):
        return f"{value:,.0f}"
    return f"{value:.3g}" if value >= 0.1 else f"{value:.3f}"


def _heading(report: dict[str, Any]) -> str:
    """Return the line that says what was measured, on what."""
    about, versions = report["device"], report["versions"]
    name = about["name"] + (f" ({about['count']})" if about.get("count", 1) > 1 else "")
    driver = f", driver {about['driver']}" if about.get("driver") else ""
    libraries = ", ".join(f"{key} {versions[key]}" for key in ("torch", "transformers", "trl"))
    shapes = "" if report["shapes"] == "full" else f", {report['shapes']} shapes"
    return f"{name}{driver}, {libraries}{shapes}"


def _missing(report: dict[str, Any]) -> Iterable[str]:
    """Return a line for each turn that failed or was left out, and for tests that did not pass."""
    for turn in report["turns"]:
        if turn["state"] != "measured":
            again = f", round {turn['round'] + 1}" if turn["round"] else ""
            named = f"{turn['row']}, {turn['pair']}, {NAMES.get(turn['engine'], turn['engine'])}"
            yield f"{turn['state']}: {named}{again}: {turn['message']}"
    tests = report.get("tests")
    if tests is None:
        return
    counts = ", ".join(f"{len(tests[state])} {state}" for state in ("passed", "failed", "skipped"))
    finished = "" if tests["finished"] else f"; {tests['message']}"
    yield f"tests: {counts}{finished}"
    for name, message in tests["failed"].items():
        yield f"failed: {name}: {message}"
