"""Served models in the terminal: their servers, and what these cost."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import RenderableType

from sweeper.records import ServerRecord
from sweeper.reporting.console import Chain, definitions, part
from sweeper.reporting.text.server_costs import TITLE, server_lines


def served_part(servers: Sequence[ServerRecord]) -> RenderableType:
    """Return a line for each server under a title."""
    lines = ((name, Chain(line)) for name, line in server_lines(servers))
    return part(TITLE, definitions(lines))
