"""Plugin of pytest that writes how each test ended as soon as it has."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def pytest_addoption(parser: Any) -> None:
    """Add the option for the file."""
    parser.addoption("--outcomes", help="file that gets a line of JSON for each test")


def pytest_configure(config: Any) -> None:
    """Write to the file that was asked for."""
    if path := config.getoption("--outcomes"):
        config.pluginmanager.register(_Writer(Path(path)))


class _Writer:
    def __init__(self, path: Path) -> None:
        self._path = path

    def pytest_runtest_logreport(self, report: Any) -> None:
        """Write a line for a test that was called, or that ended before or after that."""
        if report.when == "call" or report.outcome != "passed":
            self._write(report.nodeid, report.outcome, _message(report))

    def pytest_collectreport(self, report: Any) -> None:
        """Write a line for a file that cannot be collected, or that skips itself."""
        if report.outcome != "passed":
            self._write(report.nodeid, report.outcome, _message(report))

    def _write(self, test: str, state: str, message: str) -> None:
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"test": test, "state": state, "message": message}) + "\n")


def _message(report: Any) -> str:
    """Return the reason of a skip, or the last line of a failure."""
    if isinstance(report.longrepr, tuple):
        return str(report.longrepr[2])
    crash = getattr(report.longrepr, "reprcrash", None)
    text = str(crash.message if crash else report.longrepr or "")
    return (text.strip().splitlines() or [""])[0][:300]
