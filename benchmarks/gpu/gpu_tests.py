"""The tests marked ``gpu``, run before anything is measured."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.support.tiny_studies import ROOT

_MARK = "pytest.mark.gpu"
_TAG = "SWEEPER_GPU_TESTS"
"""In the environment of every process that the tests start, to find them by."""


def files() -> list[str]:
    """Return the test files that have such tests; others may need libraries that are not here."""
    found = sorted((ROOT / "tests").rglob("test_*.py"))
    return [
        str(path.relative_to(ROOT)) for path in found if _MARK in path.read_text(encoding="utf-8")
    ]


def run(seconds: float, environment: Mapping[str, str], folder: Path) -> dict[str, Any]:
    """Run the tests, and return their names by how they ended.

    Warnings are no errors here: they are of the libraries of the machine, not of those that sweeper
    is tested with.

    Args:
        seconds: Time after which the rest of them is left out.
        environment: Environment of the tests.
        folder: Folder for what they print.

    Returns:
        ``passed``, ``failed`` and ``skipped``, each with messages by the names of the tests;
        ``seconds``; ``finished``, false if they did not all run, and then a ``message``.
    """
    outcomes, log = folder / "tests.jsonl", folder / "tests.log"
    outcomes.touch()
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:xdist", "-p", "no:cacheprovider"]
    command += ["-p", "benchmarks.gpu.pytest_outcomes", "--continue-on-collection-errors"]
    command += ["-W", "default", "-m", "gpu", *files()]
    started = time.monotonic()
    message, tag = "", uuid.uuid4().hex
    with log.open("w") as output:
        process = subprocess.Popen(
            [*command, f"--outcomes={outcomes}"],
            cwd=ROOT,
            env={**environment, _TAG: tag},
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        try:
            code = process.wait(seconds)
            if code not in (0, 1, 5):  # passed, failed, none found
                message = f"pytest ended with exit code {code}: {_last_line(log)}"
        except subprocess.TimeoutExpired:
            message = f"not all of them ran in {seconds:.0f} s"
        finally:
            process.kill()
            process.wait()
            _end_all(tag)
    found: dict[str, Any] = {"passed": {}, "failed": {}, "skipped": {}}
    for line in outcomes.read_text(encoding="utf-8").splitlines():
        outcome = json.loads(line)
        found[outcome["state"]][outcome["test"]] = outcome["message"]
    return {
        **found,
        "seconds": time.monotonic() - started,
        "finished": not message,
        "message": message,
    }


def _end_all(tag: str) -> None:
    """End what the tests have started and left behind: it would use the GPU next to the turns."""
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if f"{_TAG}={tag}".encode() in (entry / "environ").read_bytes():
                os.kill(int(entry.name), signal.SIGKILL)
        except OSError:  # it has ended, or is another user's
            continue


def _last_line(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return lines[-1] if lines else "it printed nothing"
