"""What the command does: tests, turns and tables, within its time."""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from importlib import metadata
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.gpu import gpu_tests
from benchmarks.gpu.budget import Budget
from benchmarks.gpu.needs import TO_TEST, missing
from benchmarks.gpu.plan import OURS, Row, Turn, rows, turns
from benchmarks.gpu.processes import Ended, start_server, together
from benchmarks.gpu.report import markdown, tables
from benchmarks.gpu.task import Shapes, Training
from sweeper.foundation.environment import available_cores
from sweeper.foundation.files import write_text_atomically

_SHARE_OF_TESTS = 1 / 3
"""Share of the time that the tests may take."""


def run(options: argparse.Namespace) -> int:
    """Test and measure; return the exit code."""
    budget = Budget(options.seconds)
    console = Console(stderr=True)
    environment = dict(os.environ)
    start_server()
    with tempfile.TemporaryDirectory(prefix="sweeper-gpu-") as name:
        folder = Path(name)
        device = together("describe", [options.device], 120, folder / "device.log")[0]
        if device.found is None:
            console.print(f"No device can be used: {device.message}", markup=False)
            return 2
        kind = str(device.found["kind"])
        shapes: Shapes = options.shapes or ("full" if kind == "cuda" else "tiny")
        if kind == "cpu" and options.device == "auto":
            console.print(
                "torch can use no GPU here: this only tries the command, on the CPU with"
                f" {shapes} shapes, and writes nothing.",
                markup=False,
            )
            options.json = None
        report: dict[str, Any] = {
            "command": "python -m benchmarks.gpu " + " ".join(sys.argv[1:]),
            "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "device": device.found,
            "versions": _versions(),
            "shapes": shapes,
            "seconds": options.seconds,
            "turns": [],
        }
        bench = Bench(report, options, kind, shapes, folder, budget, console)
        bench.write()
        if not options.skip_tests:
            bench.test(environment)
        bench.measure()
    Console().print(tables(report))
    return exit_code(report)


class Bench:
    """Takes the turns, and writes what each gave.

    Args:
        report: What is written; turns and tests are added.
        options: Arguments of the command.
        kind: Kind of the devices, ``cpu`` or ``cuda``.
        shapes: Sizes of models and steps.
        folder: Folder for the files of all pairs and turns.
        budget: Time for all of it.
        console: Where progress is printed.
    """

    def __init__(
        self,
        report: dict[str, Any],
        options: argparse.Namespace,
        kind: str,
        shapes: Shapes,
        folder: Path,
        budget: Budget,
        console: Console,
    ) -> None:
        self._report, self._options = report, options
        self._kind, self._shapes, self._folder = kind, shapes, folder
        self._budget, self._console = budget, console
        about = report["device"]
        names, pairs = options.rows, options.pairs
        self._rows = [
            row
            for row in rows(about["memory_gib"], about["count"])
            if (not names or row.name in names) and (not pairs or row.pair in pairs)
        ]
        # While the tests run: no forecast is to take time or memory next to what is measured.
        pool = ThreadPoolExecutor(1)
        self._forecasts: dict[Row, Future[list[Ended]]] = {
            row: pool.submit(
                together, "forecast", [self._tasks(Turn(row, OURS, 0))[0]], 120, folder / "log"
            )
            for row in self._rows
            if row.kind == "training"
        }

    def write(self) -> None:
        """Write the report, so that a command that is ended keeps what it has."""
        if self._options.json:
            text = json.dumps(self._report, indent=1) + "\n"
            write_text_atomically(self._options.json.absolute(), text)

    def test(self, environment: Mapping[str, str]) -> None:
        """Run the tests marked ``gpu``."""
        if lacking := missing(TO_TEST):
            tests = {"passed": {}, "failed": {}, "skipped": {}, "seconds": 0.0, "finished": False}
            self._report["tests"] = {**tests, "message": f"{', '.join(lacking)} is not installed"}
        else:
            self._say("tests marked gpu")
            limit = self._options.seconds * _SHARE_OF_TESTS
            self._report["tests"] = gpu_tests.run(limit, environment, self._folder)
        self.write()

    def measure(self) -> None:
        """Take all turns that there is time for."""
        wait(self._forecasts.values())
        for turn in turns(self._rows, self._options.rounds):
            self._report["turns"].append(self._taken(turn))
            self.write()

    def _taken(self, turn: Turn) -> dict[str, Any]:
        """Take one turn, and return what it gave."""
        row = turn.row
        found = {
            "row": row.name,
            "about": row.about,
            "pair": row.pair,
            "engine": turn.engine,
            "round": turn.round,
            "kind": row.kind,
            "trials": row.trials,
            "devices": row.devices,
        }
        if reason := self._budget.why_not(turn.weight):
            return {**found, "state": "left out", "message": reason}
        self._say(f"{row.name}, {row.pair}: {turn.engine}")
        tasks = self._tasks(turn)
        for task in tasks:
            task.directory.mkdir(parents=True, exist_ok=True)
        started = time.monotonic()
        work = "sample" if row.kind == "rollouts" else "train"
        log = tasks[0].directory / "log"
        ended = together(work, tasks, self._budget.limit(turn.weight), log)
        found["wall_seconds"] = time.monotonic() - started
        failed = [one for one in ended if one.found is None]
        if failed:
            cause = min(failed, key=lambda one: one.message.startswith("another process"))
            self._say(f"failed: {cause.message}")
            memory = cause.out_of_memory
            return {**found, "state": "failed", "message": cause.message, "out_of_memory": memory}
        self._budget.spent(turn.weight, found["wall_seconds"])
        found |= {"state": "measured", "processes": [one.found for one in ended]}
        if turn.engine == OURS and row.kind == "training":
            forecast = self._forecasts[row].result()[0]
            found["forecast"] = forecast.found or {"message": forecast.message}
        return found

    def _tasks(self, turn: Turn) -> list[Training]:
        return turn.tasks(
            shapes=self._shapes,
            device=self._kind,
            folder=self._folder,
            threads=available_cores(),
            steps=self._options.steps,
            profiled=self._options.profile,
        )

    def _say(self, text: str) -> None:
        left = f"{self._budget.left():.0f} s left"
        self._console.print(f"[{time.strftime('%H:%M:%S')}, {left}] {text}", markup=False)


def exit_code(report: dict[str, Any]) -> int:
    """Return 1 if a test failed, nothing was measured, or a turn failed for want of no memory."""
    states = [turn["state"] for turn in report["turns"]]
    faults = [
        turn for turn in report["turns"] if turn["state"] == "failed" and not turn["out_of_memory"]
    ]
    tests = report.get("tests", {})
    return int(bool(faults or tests.get("failed") or "measured" not in states))


def print_markdown(path: Path) -> int:
    """Print the tables of a file; return the exit code."""
    report = json.loads(path.read_text(encoding="utf-8"))
    if report["device"]["kind"] != "cuda":
        print(f"{path} was measured on a CPU: its figures say nothing of a GPU.", file=sys.stderr)
    print(markdown(report), end="")
    return 0


def _versions() -> dict[str, str]:
    names = ("torch", "transformers", "trl", "accelerate", "peft", "triton", "flash-attn")
    return {name: version for name in names if (version := _version(name))}


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
