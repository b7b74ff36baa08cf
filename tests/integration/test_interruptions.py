"""Signals and kills of a running study, as a user, a system or an accident sends them."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from sweeper.foundation.files import read_json_lines
from tests.support.whole_studies import WholeStudy, wait_until

pytestmark = pytest.mark.slow


@pytest.fixture
def long_study(write_study: Callable[..., Path]) -> WholeStudy:
    """A study of two trials that take many steps; short when it is run with ``SHORT``."""
    arms = {"sft": {"trials": 2}}
    training = {"max_steps": 100_000, "per_device_train_batch_size": 2, "logging_steps": 1}
    return WholeStudy(write_study(arms=arms, training=training).parent)


def trains(study: WholeStudy, number: int = 0) -> bool:
    rows, _ = read_json_lines(study.trial("sft", number).progress)
    return any(row.get("metrics") for row in rows)


@pytest.mark.soak
def test_one_coordinator_at_a_time_and_a_killed_one_is_replaced(long_study: WholeStudy) -> None:
    first = long_study.start()
    wait_until(lambda: trains(long_study), "the first trial to train")
    refused = WholeStudy(long_study.directory).run()
    assert refused.returncode == 2
    holder = f"process {first.pid} on {os.uname().nodename}"
    assert refused.stderr == f"The study 'tiny' is already being run by {holder}.\n"
    assert first.poll() is None

    # What a terminal that is closed, or a batch system, does: all of its processes at once.
    [worker] = long_study.workers()
    os.killpg(worker, signal.SIGKILL)
    os.killpg(first.pid, signal.SIGKILL)
    assert long_study.end(first).returncode == -signal.SIGKILL

    second = long_study.start()
    aside = long_study.trial("sft", 0).attempt(1).spec
    wait_until(lambda: aside.exists() and trains(long_study), "the first trial to train again")
    second.terminate()
    done = long_study.end(second)
    assert done.returncode == 130
    assert "Stopped. Run the same command to resume" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr
    assert long_study.outcomes() == {"sft/0000": None}
    states = {run.info.status for run in long_study.mlflow_runs()}
    assert states == {"KILLED"}, "nothing is left that seems to run"


@pytest.mark.soak
def test_a_killed_worker_is_started_again(write_study: Callable[..., Path]) -> None:
    training = {"max_steps": 60, "per_device_train_batch_size": 2, "logging_steps": 1}
    study = WholeStudy(write_study(arms={"sft": {}}, training=training).parent)
    process = study.start()
    wait_until(lambda: trains(study), "the trial to train")
    [worker] = study.workers()
    os.kill(worker, signal.SIGKILL)
    done = study.end(process)
    study.check(done)
    text = " ".join(done.stdout.split())
    assert "sft #0 was lost (its process was ended by SIGKILL); it runs again" in text
    [outcome] = study.outcomes().values()
    assert outcome is not None
    assert (outcome.attempt, outcome.cost.steps) == (2, 60)
    assert study.trial("sft", 0).attempt(1).lost.read_text() == "its process was ended by SIGKILL\n"


@pytest.mark.soak
def test_ctrl_c_once_ends_after_the_running_trial(write_study: Callable[..., Path]) -> None:
    training = {"max_steps": 60, "per_device_train_batch_size": 2, "logging_steps": 1}
    arms = {"sft": {"trials": 2}}
    study = WholeStudy(write_study(arms=arms, training=training).parent)
    # In a terminal, Ctrl-C reaches the whole process group.
    done = study.run_until(lambda: trains(study), signal.SIGINT, group=True)
    assert done.returncode == 130
    assert "Stopping after the running trials; Ctrl-C again stops now." in done.stdout
    [outcome] = study.outcomes().values()
    assert outcome is not None
    assert (outcome.state, outcome.attempt) == ("completed", 1)
    study.check(study.run())
    assert len(study.outcomes()) == 2


def test_ctrl_c_before_anything_runs_is_no_failure(long_study: WholeStudy) -> None:
    """A terminal sends it to every process, the one that imports the libraries as well."""
    first = long_study.start()
    data = long_study.directory / "runs" / "tiny" / "preparation" / "data" / "spec.json"
    wait_until(data.exists, "the first job to be submitted")
    os.killpg(first.pid, signal.SIGINT)
    done = long_study.end(first)
    assert done.returncode == 130
    assert "Stopped. Run the same command to resume" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr
