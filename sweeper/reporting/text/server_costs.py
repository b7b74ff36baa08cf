"""What served models cost, in words and rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sweeper.analysis.comparison import Comparison
from sweeper.records import ServerRecord
from sweeper.reporting.text import formatting
from sweeper.reporting.text.terminal_escape import visible

TITLE = "Served models"
EXPLANATION = (
    "A server costs the seconds in which it was up and no job of the study ran on its device. The"
    " jobs that used it share them: those that ran at the time, in proportion to the part of their"
    " time that they waited for it. Idle seconds, in which none of them ran, are shared by all of"
    " them, in proportion to the seconds that they waited."
)
"""How a server's device-seconds are counted."""


def programs_of(server: ServerRecord) -> list[str]:
    """Return what has served a model: ``vllm 0.30.0 on cuda:1``."""
    starts = (f"{start.program} on {', '.join(start.devices)}" for start in server.starts)
    return list(map(visible, dict.fromkeys(starts)))


def server_row(server: ServerRecord) -> dict[str, str]:
    """Return what a report shows of a server, by column."""
    cost = server.cost
    idle = "" if cost is None else formatting.seconds(cost.idle)
    return {
        "server": f"{server.role}'s",
        "model": visible(server.model),
        "program": "; ".join(programs_of(server)),
        "starts": str(len(server.starts)),
        "device-seconds": formatting.seconds(server.device_seconds),
        "idle": idle,
        "paid by": "no job" if cost is not None and cost.unshared else "jobs that used it",
    }


def server_line(server: ServerRecord) -> str:
    """Return a server's model, program, starts and cost in a line, its parts separated by dots."""
    row, count = server_row(server), len(server.starts)
    amount = "all" if row["idle"] == row["device-seconds"] else row["idle"]
    idle = f", {amount} of them idle" if server.cost is not None else ""
    unshared = " (no job used it)" if row["paid by"] == "no job" else ""
    return " · ".join(
        [
            row["model"],
            row["program"],
            f"{count} start{'s' * (count != 1)}",
            f"{row['device-seconds']} device-seconds{idle}{unshared}",
        ]
    )


def server_lines(servers: Sequence[ServerRecord]) -> list[tuple[str, str]]:
    """Return a line for each server, after its name."""
    return [(f"{server.role}'s server", server_line(server)) for server in servers]


def shares(servers: Mapping[str, float]) -> str:
    """Format shares by role: ``teacher's server 120``."""
    return ", ".join(f"{role}'s server {formatting.seconds(s)}" for role, s in servers.items())


def shares_note(comparison: Comparison) -> str:
    """Return how much of the arms' device-seconds servers are; empty if nothing."""
    paid = {arm.name: sum(arm.cost.servers.values()) for arm in comparison.arms}
    listed = ", ".join(
        f"{arm.name} {formatting.seconds(paid[arm.name])} of"
        f" {formatting.seconds(arm.cost.device_seconds)}"
        for arm in comparison.arms
        if paid[arm.name]
    )
    return f"Device-seconds include shares of served models' servers ({listed})." if listed else ""
