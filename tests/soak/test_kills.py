"""``sweeper run`` is killed, wherever and whenever, and run again: it comes to the same study."""

from __future__ import annotations

import random
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.tiny_studies import adder_study, adder_suite, write_yaml
from tests.support.whole_studies import WholeStudy

ASK = "sweeper.search.arm_search:ArmSearch.ask"
SPEC = "sweeper.study.trials:write_text_atomically@spec.json"
REPLACE = "os:replace@spec.json"
TELL = "sweeper.search.arm_search:ArmSearch.tell"
TRACK = "sweeper.tracking.mlflow_tracker:MlflowTracker.finish_trial"
WRITE = "sweeper.tracking.mlflow_store:MlflowStore.write"
PLAN = "sweeper.study.confirmation:write_text_atomically@plan.json"
PLOT = "sweeper.reporting.markdown.report:png"
REPORT = "sweeper.commands.run:write_report"

BOUNDARIES = {
    "before the study is recorded": ("sweeper.commands.run:open_manifest", "before", "1"),
    "after the study is recorded": ("sweeper.commands.run:open_manifest", "after", "1"),
    "while MLflow's tables are made": ("mlflow.store.db.utils:_upgrade_db", "before", "1"),
    "during the preparation": ("sweeper.study.preparation:submit", "after", "2"),
    "after it is asked": (ASK, "after", "1"),
    "in the middle of being asked": ("optuna.study:Study.ask", "after", "2"),
    "while the spec is written": (REPLACE, "before", "2"),
    "after the spec is written": (SPEC, "after", "1"),
    "before the job is submitted": (
        "sweeper.tracking.mlflow_tracker:MlflowTracker.start_trial",
        "after",
        "1",
    ),
    "after the job is submitted": (
        "sweeper.execution.local:LocalExecutor.submit",
        "after",
        "5",
    ),
    "after the outcome, before Optuna": (TELL, "before", "1"),
    "between Optuna and MLflow": (TELL, "after", "2"),
    "while MLflow is told": (WRITE, "after", "20"),
    "after MLflow": (TRACK, "after", "1"),
    "after the last trial": (TRACK, "after", "4"),
    "while the plan is written": ("os:replace@plan.json", "before", "1"),
    "after the plan is written": (PLAN, "after", "1"),
    "while the test suite is scored": ("sweeper.study.preparation:submit", "after", "4"),
    "after a winner's spec is written": (SPEC, "after", "5"),
    "after a winner's outcome": ("sweeper.study.arms:FixedTrials.tell", "before", "1"),
    "after the last winner": (TRACK, "after", "6"),
    "during the report": (PLOT, "after", "1"),
    "after the report": (REPORT, "after", "1"),
}
RANDOM_MOMENTS = 30


LIMIT = 1800.0
"""Seconds for one study, on a machine with much to do."""


@dataclass(frozen=True)
class Undisturbed:
    study: WholeStudy
    seconds: float


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    """The study, run once as it is."""
    directory = tmp_path_factory.mktemp("undisturbed")
    write_yaml(directory / "selection.yaml", adder_suite("selection", 0, 12))
    write_yaml(directory / "test.yaml", adder_suite("test", 12, 20))
    # A warm start, so that there is a cache entry that takes a while to make. Not at equal seconds:
    # how many steps that takes depends on the machine.
    changes = {"warm_start": {"max_steps": 2}, "confirm": {"seeds": 1}, "compare_at": ["steps"]}
    write_yaml(directory / "study.yaml", adder_study(**changes))
    study = WholeStudy(directory, limit=LIMIT)
    started = time.monotonic()
    done = study.run()
    seconds = time.monotonic() - started
    study.check(done)
    assert len(study.trials()) == 4 and len(study.finals()) == 2
    return Undisturbed(study, seconds)


def check_again(study: WholeStudy, undisturbed: Undisturbed) -> None:
    """Run the same command again: nothing is left to do but what the killed one left undone."""
    study.check(study.run())
    assert study.results() == undisturbed.study.results()


def kill(study: WholeStudy, name: str) -> None:
    killed = study.run(kill=BOUNDARIES[name])
    assert killed.returncode == -9, (name, killed.stdout, killed.stderr)


@pytest.mark.soak
def test_a_study_that_is_killed_at_one_boundary_after_the_other(
    undisturbed: Undisturbed, tmp_path: Path
) -> None:
    study = undisturbed.study.copy(tmp_path)
    for name in (
        "while the spec is written",
        "between Optuna and MLflow",
        "after a winner's outcome",
        "during the report",
    ):
        kill(study, name)
    check_again(study, undisturbed)


@pytest.mark.soak
def test_a_study_that_is_killed_at_two_random_moments(
    undisturbed: Undisturbed, tmp_path: Path
) -> None:
    study = undisturbed.study.copy(tmp_path)
    for moment in (0.45, 0.75):
        study.run_for(moment * undisturbed.seconds)
    check_again(study, undisturbed)


@pytest.mark.soak
@pytest.mark.parametrize("name", BOUNDARIES)
def test_a_study_that_is_killed_at_a_boundary(
    undisturbed: Undisturbed, tmp_path: Path, name: str
) -> None:
    study = undisturbed.study.copy(tmp_path)
    kill(study, name)
    check_again(study, undisturbed)


@pytest.mark.soak
def test_a_study_that_is_killed_at_all_boundaries_in_a_row(
    undisturbed: Undisturbed, tmp_path: Path
) -> None:
    study = undisturbed.study.copy(tmp_path)
    for boundary in BOUNDARIES.values():
        # Some are passed by once what they are about is done.
        study.run(kill=boundary)
    check_again(study, undisturbed)


@pytest.mark.soak
def test_a_study_that_is_killed_while_it_trains(undisturbed: Undisturbed, tmp_path: Path) -> None:
    study = undisturbed.study.copy(tmp_path)
    progress = study.trial("gkd", 0).progress
    study.run_until(lambda: progress.exists() and '"train"' in progress.read_text())
    assert not study.trial("gkd", 0).outcome.exists()
    check_again(study, undisturbed)


@pytest.mark.soak
def test_a_study_that_is_killed_once_an_outcome_is_written(
    undisturbed: Undisturbed, tmp_path: Path
) -> None:
    study = undisturbed.study.copy(tmp_path)
    for arm in ("gkd", "sft"):
        study.run_until(study.trial(arm, 0).outcome.exists)
    check_again(study, undisturbed)


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(RANDOM_MOMENTS))
def test_a_study_that_is_killed_at_a_random_moment(
    undisturbed: Undisturbed, tmp_path: Path, seed: int
) -> None:
    study = undisturbed.study.copy(tmp_path)
    draw = random.Random(seed)
    # Every third is killed several times in a row.
    for _ in range(1 if seed % 3 else draw.randint(2, 4)):
        study.run_for(draw.random() * undisturbed.seconds)
    check_again(study, undisturbed)
