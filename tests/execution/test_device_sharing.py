"""How the jobs of a study share a machine."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from sweeper.config.compute import ComputeConfig
from sweeper.execution.device_sharing import count_workers, divide_cores, per_device
from sweeper.execution.local import LocalExecutor
from sweeper.foundation.errors import SweeperError

GPUS = ["cuda:0", "cuda:1"]


def compute(**keys: Any) -> ComputeConfig:
    return ComputeConfig.model_validate(keys)


@pytest.mark.parametrize(("gpu", "jobs"), [(1.0, 1), (0.5, 2), (0.3333, 3), (0.25, 4), (0.7, 1)])
def test_a_device_is_shared_by_as_many_jobs_as_fit(gpu: float, jobs: int) -> None:
    assert per_device(gpu) == jobs


def test_as_many_workers_as_the_devices_have_room_for() -> None:
    assert count_workers(compute(), GPUS) == 1
    assert count_workers(compute(workers=3), GPUS) == 3
    assert count_workers(compute(resources_per_trial={"gpu": 0.5}), GPUS) == 4
    assert count_workers(compute(workers=3, resources_per_trial={"gpu": 0.5}), GPUS) == 3
    with pytest.raises(SweeperError, match=r"compute\.workers: expected at most 4, found 5"):
        count_workers(compute(workers=5, resources_per_trial={"gpu": 0.5}), GPUS)
    with pytest.raises(SweeperError, match="torch can use no GPU"):
        count_workers(compute(resources_per_trial={"gpu": 0.5}), ["cpu"])


def test_devices_are_given_out_in_turn(tmp_path: Path) -> None:
    executor = LocalExecutor(compute(resources_per_trial={"gpu": 0.5, "cpu": 1}), GPUS)
    assert executor.free() == 4
    place = executor.next_resources(tmp_path)
    assert (place.device, place.devices, place.threads) == ("cuda:0", (), 1)


def test_a_trial_gets_devices_of_its_own(tmp_path: Path) -> None:
    four = [f"cuda:{index}" for index in range(4)]
    twos = compute(devices_per_trial=2, resources_per_trial={"gpu": 1, "cpu": 4})
    executor = LocalExecutor(twos, four)
    assert executor.free() == 2
    place = executor.next_resources(tmp_path)
    assert (place.device, place.devices, place.threads) == ("cuda:0", ("cuda:0", "cuda:1"), 2)
    assert (place.processes, place.alone().processes) == (2, 1)
    assert count_workers(compute(devices_per_trial=2), four) == 1
    assert count_workers(compute(devices_per_trial=3, workers=5), ["cpu"]) == 5
    with pytest.raises(SweeperError, match=r"compute\.workers: expected at most 1, found 2"):
        count_workers(compute(devices_per_trial=3, workers=2), four)
    for devices in (["mps"], ["cuda:0"]):
        with pytest.raises(SweeperError, match=r"devices_per_trial: expected at most 1, found 2"):
            count_workers(compute(devices_per_trial=2), devices)


def test_every_worker_has_cores_of_its_own_or_none_has() -> None:
    assert divide_cores(2, 2, [0, 1, 4, 5]) == [frozenset({0, 1}), frozenset({4, 5})]
    assert divide_cores(3, 1, [2, 3, 7]) == [frozenset({2}), frozenset({3}), frozenset({7})]
    assert divide_cores(2, 2, [0, 1, 2]) is None


def test_the_cores_of_this_machine_are_enough_for_one_worker() -> None:
    assert divide_cores(1, 1, sorted(os.sched_getaffinity(0))) is not None
