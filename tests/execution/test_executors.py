"""Jobs in real processes: what every executor keeps to, and what only one does."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock

from sweeper.config.compute import ComputeConfig
from sweeper.execution.executor import Executor, Finished
from sweeper.execution.local import LocalExecutor
from sweeper.foundation.files import read_json_lines
from sweeper.records import TrialSpec
from sweeper.records.layout import JobPaths
from sweeper.records.outcome_files import read_outcome
from tests.support.trial_jobs import make_spec

pytestmark = [
    pytest.mark.slow,
    # Ray's own processes and sockets outlast what Python thinks of them.
    pytest.mark.filterwarnings("ignore"),
]

MakeExecutor = Callable[[int], Executor]


def local(workers: int) -> Executor:
    return LocalExecutor(ComputeConfig(workers=workers))


def on_ray(workers: int) -> Executor:
    from sweeper.execution.ray_cluster import RayExecutor

    return RayExecutor(ComputeConfig(executor="ray", address="local", workers=workers))


executors = pytest.mark.parametrize(
    "make_executor",
    [
        pytest.param(local, id="local"),
        pytest.param(on_ray, id="ray", marks=pytest.mark.soak),
    ],
)


def wait(executor: Executor) -> list[Finished]:
    finished: list[Finished] = []
    while executor.running():
        finished += executor.wait(60)
    return finished


def begin(executor: Executor, spec: TrialSpec) -> None:
    """Submit the job, and wait until it says something."""
    executor.submit(spec)
    progress = JobPaths(Path(spec.place.directory)).progress
    while not progress.exists():
        assert executor.wait(0.05) == []


def assert_ended(spec: TrialSpec) -> None:
    """Nothing works in the job's directory: what does holds its lock."""
    with FileLock(JobPaths(Path(spec.place.directory)).lock, timeout=10):
        pass


@executors
def test_two_jobs_beside_each_other(
    write_study: Callable[..., Path], make_executor: MakeExecutor
) -> None:
    study = write_study()
    with make_executor(2) as executor:
        for number in range(2):
            executor.submit(make_spec(study, number))
        assert executor.free() == 0
        with pytest.raises(RuntimeError, match="busy"):
            executor.submit(make_spec(study, 2))
        finished = wait(executor)
    assert {done.spec.number for done in finished if isinstance(done.spec, TrialSpec)} == {0, 1}
    for done in finished:
        files = JobPaths(Path(done.spec.place.directory))
        assert done.outcome == read_outcome(files)
        assert done.outcome is not None
        assert done.outcome.state == "completed"
        assert done.outcome.cost.device_seconds > 0
        rows, _ = read_json_lines(files.progress)
        assert rows[0]["phase"] == "load"
        assert [row["step"] for row in rows if "metrics" in row] == [2, 4]
        assert files.log.exists()


def test_a_killed_job_has_no_outcome_and_a_reason(write_study: Callable[..., Path]) -> None:
    spec = make_spec(write_study(), max_steps=100000)
    with LocalExecutor(ComputeConfig()) as executor:
        begin(executor, spec)
        os.kill(executor.process_ids()[0], signal.SIGKILL)
        [finished] = wait(executor)
    assert finished.outcome is None
    assert "SIGKILL" in finished.reason


@executors
def test_stop_ends_running_jobs(
    write_study: Callable[..., Path], make_executor: MakeExecutor
) -> None:
    spec = make_spec(write_study(), max_steps=100000)
    with make_executor(1) as executor:
        begin(executor, spec)
        executor.stop()
        assert executor.running() == []
        assert_ended(spec)


@executors
def test_one_of_two_jobs_is_cancelled(
    write_study: Callable[..., Path], make_executor: MakeExecutor
) -> None:
    study = write_study()
    long, short = make_spec(study, 0, max_steps=100000), make_spec(study, 1)
    with make_executor(2) as executor:
        begin(executor, long)
        executor.submit(short)
        executor.cancel(long)
        finished = {done.spec.place.directory: done for done in wait(executor)}
        assert_ended(long)
    assert finished[long.place.directory].outcome is None
    outcome = finished[short.place.directory].outcome
    assert outcome is not None
    assert outcome.state == "completed"


@executors
def test_a_failure_is_an_outcome_with_a_kind_and_a_log(
    write_study: Callable[..., Path], make_executor: MakeExecutor
) -> None:
    spec = make_spec(write_study(), learning_rate="1.0e+30", max_steps=20)
    with make_executor(1) as executor:
        executor.submit(spec)
        [finished] = wait(executor)
    assert finished.outcome is not None
    assert finished.outcome.failure is not None
    assert finished.outcome.failure.kind == "diverged"
    log = JobPaths(Path(spec.place.directory)).log.read_text()
    assert "DivergedError" in log


def test_a_job_ends_with_its_coordinator(write_study: Callable[..., Path], tmp_path: Path) -> None:
    """A coordinator that is killed leaves no orphan that would go on with its trial."""
    spec = make_spec(write_study(), max_steps=100000)
    (tmp_path / "spec.json").write_text(spec.model_dump_json())
    script = tmp_path / "coordinator.py"
    script.write_text(
        textwrap.dedent(
            f"""
            from pathlib import Path
            from sweeper.config.compute import ComputeConfig
            from sweeper.execution.local import LocalExecutor
            from sweeper.records import TrialSpec

            if __name__ == "__main__":
                text = Path({str(tmp_path / "spec.json")!r}).read_text()
                spec = TrialSpec.model_validate_json(text)
                with LocalExecutor(ComputeConfig()) as executor:
                    executor.submit(spec)
                    print(executor.process_ids()[0], flush=True)
                    executor.wait(600)
            """
        )
    )
    with subprocess.Popen(
        [sys.executable, str(script)], stdout=subprocess.PIPE, text=True
    ) as coordinator:
        assert coordinator.stdout is not None
        worker = int(coordinator.stdout.readline())
        descriptor = os.pidfd_open(worker)
        coordinator.kill()
    # The descriptor becomes readable when the process has ended.
    import select

    readable, _, _ = select.select([descriptor], [], [], 60)
    os.close(descriptor)
    assert readable


def test_devices_and_threads_are_divided(tmp_path: Path) -> None:
    with LocalExecutor(ComputeConfig(workers=2, device="cpu", threads_per_worker=3)) as executor:
        place = executor.next_resources(tmp_path)
        assert (place.directory, place.device, place.threads) == (str(tmp_path), "cpu", 3)
        assert executor.free() == 2
