"""Disks that run full in the middle of a study, and get room again."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.whole_studies import WholeStudy, leftovers, wait_until

pytestmark = pytest.mark.slow


@dataclass
class SmallDisk:
    """A file system of its own, in memory, that can be filled and given room again."""

    path: Path

    @property
    def _ballast(self) -> Path:
        return self.path / "ballast"

    def fill(self) -> None:
        """Leave not a byte."""
        with self._ballast.open("ab", buffering=0) as file:
            for size in (2**16, 2**12):
                try:
                    while file.write(bytes(size)):
                        pass
                except OSError:
                    continue

    def empty(self) -> None:
        self._ballast.unlink()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[SmallDisk]:
    path = tmp_path / "small"
    path.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=32m", "none", str(path)]
    done = subprocess.run(mount, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"needs to mount a small file system: {done.stderr.strip()}")
    yield SmallDisk(path)
    subprocess.run(["umount", "--lazy", str(path)], check=True)


def stopped(study: WholeStudy, done: subprocess.CompletedProcess[str], disk: SmallDisk) -> None:
    """That the study stopped with one message, and left nothing half-written."""
    assert done.returncode == 1, done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    [message] = done.stderr.splitlines()
    assert message.startswith("error: "), message
    assert f"no space is left on the disk of {disk.path}" in message
    assert message.endswith("make room there, and run the same command again to resume.")
    assert leftovers(study.directory) == []
    for files in study.trials().values():
        for path in (files.spec, files.outcome):
            assert not path.exists() or json.loads(path.read_text(encoding="utf-8"))


@pytest.mark.soak
def test_the_disk_of_the_runs_is_full_while_a_trial_trains(
    write_study: Callable[..., Path], small_disk: SmallDisk
) -> None:
    training = {"max_steps": 40, "per_device_train_batch_size": 2, "logging_steps": 1}
    arms = {"sft": {"trials": 2}}
    directory = write_study(arms=arms, training=training).parent
    study = WholeStudy(directory, runs=small_disk.path / "runs")
    process = study.start()
    progress = study.trial("sft", 0).progress
    wait_until(lambda: progress.exists() and '"train"' in progress.read_text(), "the training")
    small_disk.fill()
    stopped(study, study.end(process), small_disk)
    status = study.run(command="status")
    assert (status.returncode, status.stderr) == (0, "")
    # Still full: the same message, and nothing is lost by trying.
    stopped(study, study.run(), small_disk)
    small_disk.empty()
    study.check(study.run())
    assert len(study.results()) == 2


@pytest.mark.soak
def test_the_disk_of_the_cache_is_full(
    write_study: Callable[..., Path], small_disk: SmallDisk
) -> None:
    directory = write_study(arms={"supervised_kd": {}}).parent
    study = WholeStudy(directory, cache=small_disk.path / "cache")
    small_disk.fill()
    stopped(study, study.run(), small_disk)
    small_disk.empty()
    study.check(study.run())


@pytest.mark.soak
def test_the_disk_is_full_from_the_start(
    write_study: Callable[..., Path], small_disk: SmallDisk
) -> None:
    directory = write_study(arms={"sft": {}}).parent
    study = WholeStudy(directory, runs=small_disk.path / "runs")
    small_disk.fill()
    stopped(study, study.run(), small_disk)
    small_disk.empty()
    study.check(study.run())
