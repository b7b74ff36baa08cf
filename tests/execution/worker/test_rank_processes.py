"""Trials on several devices, each with a process: one trial in all that others see of it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sweeper.config.compute import ComputeConfig
from sweeper.config.loading import load_study
from sweeper.execution.executor import Finished
from sweeper.execution.local import LocalExecutor
from sweeper.execution.worker.process import FULL_DISK
from sweeper.foundation.files import read_json_lines, write_text_atomically
from sweeper.records import IntermediatePoint, TrialSpec
from sweeper.records.layout import JobPaths
from tests.support.tiny_studies import ROOT
from tests.support.trial_jobs import trial_spec
from tests.support.whole_studies import wait_until

GKD = {"gkd": {"settings": {"lmbda": 0.5, "beta": 0.5, "max_new_tokens": 8}}}


def compute(devices: int) -> ComputeConfig:
    return ComputeConfig(device="cpu", devices_per_trial=devices, threads_per_worker=devices)


def files_of(spec: TrialSpec) -> JobPaths:
    return JobPaths(Path(spec.place.directory))


def placed(spec: TrialSpec, executor: LocalExecutor, directory: Path) -> TrialSpec:
    """The trial where the executor would have it next."""
    directory.mkdir(exist_ok=True)
    divided = {"shard_student": spec.place.shard_student}
    place = executor.next_resources(directory).model_copy(update=divided)
    return spec.model_copy(update={"place": place})


def dividing(spec: TrialSpec) -> TrialSpec:
    """The trial with its student divided among its devices."""
    place = spec.place.model_copy(update={"shard_student": True})
    return spec.model_copy(update={"place": place})


def wait(executor: LocalExecutor) -> Finished:
    while not (finished := executor.wait(60)):
        pass
    return finished[0]


def run(spec: TrialSpec, devices: int, directory: Path) -> tuple[TrialSpec, Finished]:
    with LocalExecutor(compute(devices)) as executor:
        spec = placed(spec, executor, directory)
        executor.submit(spec)
        return spec, wait(executor)


def processes_in(directory: Path) -> list[int]:
    """The processes whose output goes to the log of a job."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                output = os.readlink(entry / "fd" / "1")
            except OSError:
                continue
            if output == str(directory / "log.txt"):
                found.append(int(entry.name))
    return sorted(found)


def assert_nothing_is_left(directory: Path) -> None:
    wait_until(lambda: not processes_in(directory), "the trial's processes to end")
    assert not list(directory.glob(".trainer.*"))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.slow
@pytest.mark.parametrize("divided", [pytest.param(False, marks=pytest.mark.soak), True])
def test_a_trial_on_two_devices(
    write_study: Callable[..., Path], tmp_path: Path, divided: bool
) -> None:
    # Nobody has made the warm start yet: the first device does.
    warm_start = {"method": "sft", "max_steps": 2}
    spec = trial_spec(load_study(write_study(arms=GKD, warm_start=warm_start)), "gkd")
    doubled = spec.settings.model_copy(update={"gradient_accumulation_steps": 2})
    single = spec.model_copy(update={"settings": doubled})
    two, finished = run(dividing(spec) if divided else spec, 2, tmp_path / "two")
    _, alone = run(single, 1, tmp_path / "one")
    ours, theirs = finished.outcome, alone.outcome
    assert ours is not None and theirs is not None
    assert (ours.state, theirs.state) == ("completed", "completed"), ours.failure
    assert (ours.device, ours.devices, theirs.devices) == ("cpu, cpu", 2, 1)
    for quantity in ("steps", "trained_tokens", "generated_tokens"):
        assert getattr(ours.cost, quantity) == getattr(theirs.cost, quantity) > 0
    assert ours.curve["loss"] == pytest.approx(theirs.curve["loss"], rel=1e-3)
    assert ours.rollouts is not None and theirs.rollouts is not None
    found, expected = ours.rollouts.model_dump(), theirs.rollouts.model_dump()
    assert found == pytest.approx(expected, rel=1e-3)
    assert ours.scores is not None and theirs.scores is not None
    assert ours.scores.score == pytest.approx(theirs.scores.score, abs=0.1)
    # Both devices were taken for as long as the trial ran.
    assert ours.cost.device_seconds == pytest.approx(2 * (ours.finished - ours.started), rel=0.01)
    assert ours.cost.seconds["evaluation"] >= 2 * ours.scores.seconds
    rows, _ = read_json_lines(files_of(two).progress)
    assert [row["step"] for row in rows if row.get("metrics")] == [2, 4]
    assert [row["phase"] for row in rows if not row.get("metrics")] == ["load", "train", "evaluate"]
    assert_nothing_is_left(tmp_path / "two")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.slow
def test_a_trial_on_two_devices_is_pruned(write_study: Callable[..., Path], tmp_path: Path) -> None:
    spec = trial_spec(load_study(write_study(arms={"sft": None})), "sft")
    spec = spec.model_copy(update={"interim": (IntermediatePoint(index=0, step=2, documents=4),)})
    directory = tmp_path / "pruned"
    directory.mkdir()
    write_text_atomically(JobPaths(directory).prune_decision, '{"index": 0, "goes_on": false}')
    # Divided, so that it is put together to be scored.
    _, finished = run(dividing(spec), 2, directory)
    assert finished.outcome is not None
    assert finished.outcome.state == "pruned", finished.outcome.failure
    assert finished.outcome.cost.steps == 2
    assert_nothing_is_left(directory)


@pytest.fixture(scope="module")
def ends(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """How trials of three processes ended."""
    command = [sys.executable, "-m", "tests.support.siblings", str(tmp_path_factory.mktemp("e"))]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize(
    ("end", "failure"),
    [
        ("complete", None),
        ("first out of memory", ["out_of_memory", "in process 0"]),
        ("first has a bug", ["bug", "in process 0"]),
        ("second out of memory", ["out_of_memory", "in process 1"]),
        ("second without its device", ["faulty_device", "in process 1"]),
    ],
)
def test_the_failure_of_one_process_is_the_trials(
    ends: dict[str, Any], end: str, failure: list[str] | None
) -> None:
    found = ends[end]
    assert (found["code"], found["left"]) == (0, []), found
    assert found["failure"] == failure
    assert found["state"] == ("failed" if failure else "completed")


@pytest.mark.parametrize(
    ("end", "code"),
    [
        ("second killed", -signal.SIGSEGV),
        ("second without room", FULL_DISK),
        ("first killed", -signal.SIGKILL),
    ],
)
def test_the_end_of_one_process_is_the_trials(ends: dict[str, Any], end: str, code: int) -> None:
    found = ends[end]
    assert (found["code"], found["state"]) == (code, None), found
    said = "Process 2 of 3 was ended by SIGSEGV." in found["log"]
    assert said == (end == "second killed")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.slow
@pytest.mark.parametrize("kill", [True, False], ids=["killed", "stopped"])
def test_no_process_outlives_the_first(
    write_study: Callable[..., Path], tmp_path: Path, kill: bool
) -> None:
    spec = trial_spec(load_study(write_study(), ["training.max_steps=100000"]), "sft")
    with LocalExecutor(compute(2)) as executor:
        spec = placed(spec, executor, tmp_path / "trial")
        executor.submit(spec)
        wait_until(lambda: begun(spec), "the training to begin")
        assert len(processes_in(tmp_path / "trial")) == 2
        if kill:
            os.kill(executor.process_ids()[0], signal.SIGKILL)
        else:
            executor.stop()
        wait_until(lambda: not processes_in(tmp_path / "trial"), "both processes to end")


def begun(spec: TrialSpec) -> bool:
    rows, _ = read_json_lines(files_of(spec).progress)
    return any(row.get("metrics") for row in rows)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.soak
@pytest.mark.parametrize(("killed", "divided"), [(0, False), (1, False), (1, True)])
def test_two_processes_go_on_from_their_checkpoint(
    write_study: Callable[..., Path], tmp_path: Path, killed: int, divided: bool
) -> None:
    """With dropout, of which each process has random states of its own."""
    dropout: dict[str, Any] = {"model": "builtin/adder-student", "lora": {"r": 2, "dropout": 0.3}}
    if divided:
        dropout["lora"] = None
    training: dict[str, Any] = {
        "max_steps": 41,
        "per_device_train_batch_size": 2,
        "learning_rate": 1e-3,
        "max_length": 96,
        "logging_steps": 2,
        "checkpoint_every": 3,
    }
    arms = {"gkd": {"settings": {**GKD["gkd"]["settings"], "disable_dropout": False}}}
    study = load_study(write_study(student=dropout, training=training, arms=arms))
    spec = trial_spec(study, "gkd")
    if divided:
        spec = dividing(spec)
    whole, undisturbed = run(spec, 2, tmp_path / "whole")
    with LocalExecutor(compute(2)) as executor:
        spec = placed(spec, executor, tmp_path / "trial")
        checkpoints = files_of(spec).checkpoint
        executor.submit(spec)
        wait_until(lambda: bool(list(checkpoints.glob("[0-9]*"))), "a checkpoint")
        os.kill(processes_in(tmp_path / "trial")[killed], signal.SIGKILL)
        assert wait(executor).outcome is None
        wait_until(lambda: not processes_in(tmp_path / "trial"), "both processes to end")
        for path in (files_of(spec).progress, files_of(spec).log):
            path.unlink()
        executor.submit(spec)
        again = wait(executor)
    assert "Training resumes from the checkpoint" in files_of(spec).log.read_text()
    names = {path.name for path in (checkpoints / "41").iterdir()}
    assert {"rng_state_0.pth", "rng_state_1.pth"} <= names
    for name in names - {"checkpoint.json", "trainer_state.json"}:
        ours, theirs = (files_of(s).checkpoint / "41" / name for s in (spec, whole))
        assert ours.read_bytes() == theirs.read_bytes(), name
    assert again.outcome is not None and undisturbed.outcome is not None
    assert again.outcome.state == "completed", again.outcome.failure
    for key in ("loss", "grad_norm", "trained_tokens", "generated_tokens", "on_policy_share"):
        assert again.outcome.curve[key] == undisturbed.outcome.curve[key]
    assert again.outcome.cost.trained_tokens == undisturbed.outcome.cost.trained_tokens


@pytest.mark.filterwarnings("ignore")
@pytest.mark.soak
def test_a_trial_on_two_devices_of_a_node(write_study: Callable[..., Path], tmp_path: Path) -> None:
    from sweeper.execution.ray_cluster import RayExecutor

    spec = trial_spec(load_study(write_study(arms=GKD)), "gkd")
    wanted = {"executor": "ray", "address": "local", "device": "cpu", "devices_per_trial": 2}
    directory = tmp_path / "trial"
    directory.mkdir()
    with RayExecutor(ComputeConfig(**wanted)) as executor:
        spec = spec.model_copy(update={"place": executor.next_resources(directory)})
        executor.submit(spec)
        while not (finished := executor.wait(60)):
            pass
    outcome = finished[0].outcome
    assert outcome is not None, finished[0].reason
    assert (outcome.state, outcome.devices) == ("completed", 2), outcome.failure
    assert_nothing_is_left(directory)
