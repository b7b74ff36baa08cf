"""What a study costs on top of its trials: ``python -m benchmarks.coordinator --json FILE``.

Studies whose trials do nothing, with one worker and everything else as in ``sweeper run``: the
Optuna and MLflow databases, a process for each job, its files, the live display. ``overhead`` is
the wall time of a search divided by its trials, in seconds. Of large studies only the last
``--timed`` trials run; those before are put there by ``filling.py``. ``ratio`` is the overhead over
that at 100 trials with the same sampler and database. Then ``sweeper status``, ``report --json``
and ``report`` run on each study, as commands.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.pairs import ROOT

if TYPE_CHECKING:
    from tests.support.postgres import Server

BASE = 100
"""The number of trials that others are compared with."""
FIRST = 10
"""Trials that run before the rest is filled in."""
COMPUTE = {
    "local": "{workers: 1, device: cpu}",
    "ray": "{executor: ray, address: local, workers: 1, device: cpu}",
}
ARM = "gkd"
STUDY = """\
study: scale
seed: 1
trials: {trials}
teacher: {{model: builtin/adder-teacher}}
student: {{model: builtin/adder-student}}
data: {{train: {{path: builtin/addition, limit: 200}}}}
training: {{max_steps: 100, per_device_train_batch_size: 32, max_length: 96}}
arms:
  gkd:
    search:
      lmbda: {{type: float, low: 0.0, high: 1.0}}
      beta: {{type: categorical, choices: [0.0, 0.1, 0.5, 0.9, 1.0]}}
      temperature: {{type: float, low: 0.3, high: 1.0}}
      max_new_tokens: {{type: int, low: 16, high: 64, step: 16}}
      learning_rate: {{type: float, low: 1.0e-5, high: 1.0e-2, log: true}}
sampler: {{type: {sampler}}}
evaluation: {{selection: {suite}}}
compute: {compute}
"""


def measure(
    folder: Path,
    sampler: str,
    trials: int,
    timed: int,
    database: Database,
    executor: str = "local",
) -> dict[str, Any]:
    """One study: its search, and the commands that read it."""
    folder.mkdir()
    started = time.perf_counter()
    filled = max(trials - timed, 0)
    if filled:
        _search(folder, sampler, FIRST, database, executor)
        _fill(folder, filled, database)
    before = time.perf_counter()
    found = _search(folder, sampler, trials, database, executor)
    row = {
        "executor": executor,
        "database": database.name,
        "sampler": sampler,
        "trials": trials,
        "timed": found["trials"],
        "overhead": found["search_seconds"] / found["trials"],
        "ask": found["ask_seconds"] / found["trials"],
        "tell": found["tell_seconds"] / found["trials"],
        "open_seconds": found["open_seconds"],
        "reconcile_seconds": found["reconcile_seconds"],
        "resident_mib": found["resident_mib"],
        "filling_seconds": before - started,
    }
    for name, command in (
        ("status", ["status"]),
        ("report_json", ["report", "--json"]),
        ("report", ["report", "--reports", str(folder / "reports")]),
    ):
        before = time.perf_counter()
        _run("sweeper", command[0], str(folder / "study.yaml"), "--runs", str(folder), *command[1:])
        row[f"{name}_seconds"] = time.perf_counter() - before
    return row


class Database:
    """Databases in which Optuna and MLflow keep the studies of one measurement."""

    name = "sqlite"

    def keys(self, folder: Path) -> str:
        """Return the keys of the study file that name it."""
        return ""

    def storage(self, folder: Path) -> str:
        """Return Optuna's URL for ``folder``."""
        return f"sqlite:///{folder.resolve()}/scale/study.db"

    def tracking(self, folder: Path) -> str:
        """Return MLflow's URL for ``folder``."""
        return f"sqlite:///{folder.resolve()}/mlflow.db"


@contextmanager
def sqlite() -> Iterator[Database]:
    """Return the files that a study has by default."""
    yield Database()


class Postgres(Database):
    """Databases of their own for each folder, on one server that waits for the disk."""

    name = "postgres"

    def __init__(self, server: Server) -> None:
        @cache
        def url(use: str, folder: Path) -> str:
            return server.database().replace("postgresql://", "postgresql+psycopg://")

        self._url = url

    def keys(self, folder: Path) -> str:
        """Return the URLs."""
        return f"storage: {self.storage(folder)}\ntracking: {{uri: '{self.tracking(folder)}'}}\n"

    def storage(self, folder: Path) -> str:
        """Return the URL of a new database."""
        return self._url("storage", folder)

    def tracking(self, folder: Path) -> str:
        """Return the URL of another new database."""
        return self._url("tracking", folder)


@contextmanager
def postgres() -> Iterator[Database]:
    """Start a server on this machine."""
    from tests.support.postgres import running_server

    with running_server(durable=True) as server:
        yield Postgres(server)


DATABASES = {"sqlite": sqlite, "postgres": postgres}


def _search(
    folder: Path, sampler: str, trials: int, database: Database, executor: str
) -> dict[str, Any]:
    suite = ROOT / "eval_suites" / "addition-selection.yaml"
    text = STUDY.format(trials=trials, sampler=sampler, suite=suite, compute=COMPUTE[executor])
    text += database.keys(folder)
    (folder / "study.yaml").write_text(text, encoding="utf-8")
    out = folder / "measured.json"
    _run(
        "benchmarks.one_search", str(folder / "study.yaml"),
        "--runs", str(folder), "--json", str(out),
    )  # fmt: skip
    found: dict[str, Any] = json.loads(out.read_text(encoding="utf-8"))
    return found


def _fill(folder: Path, end: int, database: Database) -> None:
    from benchmarks.filling import fill
    from sweeper.records.layout import StudyPaths

    paths = StudyPaths(folder.resolve(), "scale")
    fill(paths, ARM, end, database.storage(folder), database.tracking(folder))


def _run(module: str, *arguments: str) -> None:
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    command = [sys.executable, "-m", module, *arguments]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr}")


def _line(row: dict[str, Any]) -> str:
    memory = row["resident_mib"]
    ratio = f"{row['ratio']:.2f}" if row["ratio"] is not None else ""
    return (
        f"| {row['executor']} | {row['database']} | {row['sampler']} | {row['trials']:,}"
        f" | {row['overhead']:.3f}"
        f" | {row['ask']:.3f} | {ratio} | {memory[0]:.0f} → {memory[-1]:.0f}"
        f" | {row['open_seconds']:.1f} + {row['reconcile_seconds']:.1f}"
        f" | {row['status_seconds']:.1f} | {row['report_json_seconds']:.1f}"
        f" | {row['report_seconds']:.1f} |"
    )


HEADER = """\
| jobs | database | sampler | trials | s/trial | of it ask | ratio | MiB | start | status | json | report |
|---|---|---|---|---|---|---|---|---|---|---|---|"""  # noqa: E501


def main() -> None:
    """Measure, print a table, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--trials", type=int, nargs="+", default=[10, 100, 1_000, 10_000])
    parser.add_argument("--timed", type=int, default=100, help="Trials that run, at most.")
    parser.add_argument("--samplers", nargs="+", default=["random", "tpe"])
    parser.add_argument("--databases", nargs="+", choices=DATABASES, default=list(DATABASES))
    parser.add_argument(
        "--folder", type=Path, help="Where to keep the studies; by default nowhere."
    )
    parser.add_argument("--ray", action="store_true", help="Also jobs on Ray.")
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    print(HEADER, flush=True)
    with tempfile.TemporaryDirectory() as temporary:
        place = options.folder or Path(temporary)
        place.mkdir(parents=True, exist_ok=True)
        for name in options.databases:
            with DATABASES[name]() as database:
                for sampler in options.samplers:
                    base = None
                    for trials in options.trials:
                        folder = place / f"{name}-{sampler}-{trials}"
                        row = measure(folder, sampler, trials, options.timed, database)
                        base = row["overhead"] if trials == BASE else base
                        row["ratio"] = None if base is None else row["overhead"] / base
                        rows.append(row)
                        print(_line(row), flush=True)
                        _write(options.json, rows)
        if options.ray:
            row = measure(place / "ray", "random", BASE, BASE, Database(), "ray")
            rows.append({**row, "ratio": None})
            print(_line(rows[-1]), flush=True)
            _write(options.json, rows)


def _write(file: Path | None, rows: list[dict[str, Any]]) -> None:
    if file is not None:
        file.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
