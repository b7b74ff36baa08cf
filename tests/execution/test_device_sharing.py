"""How the jobs of a study share a machine."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from sweeper.config.compute import ComputeConfig
from sweeper.execution.device_sharing import (
    DeviceSlots,
    count_workers,
    divide_cores,
    jobs_on_a_gpu,
    per_device,
)
from sweeper.execution.local import LocalExecutor
from sweeper.execution.worker.memory_fence import BESIDE_ALLOCATOR, allocator_fraction
from sweeper.foundation.errors import SweeperError

GPUS = ["cuda:0", "cuda:1"]


def compute(**keys: Any) -> ComputeConfig:
    return ComputeConfig.model_validate(keys)


@pytest.mark.parametrize(("gpu", "jobs"), [(1.0, 1), (0.5, 2), (0.3333, 3), (0.25, 4), (0.7, 1)])
def test_a_device_is_shared_by_as_many_jobs_as_fit(gpu: float, jobs: int) -> None:
    assert per_device(gpu) == jobs


def test_as_many_workers_as_the_devices_have_room_for() -> None:
    assert count_workers(compute(), GPUS) == 2
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
    assert count_workers(compute(devices_per_trial=2), four) == 2
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


FOUR = [f"cuda:{index}" for index in range(4)]
EIGHT = [f"cuda:{index}" for index in range(8)]


@pytest.mark.parametrize(
    ("keys", "devices", "workers", "sharing", "share"),
    [
        # By default one trial a GPU; on other devices, one.
        ({}, EIGHT, 8, [1] * 8, 1.0),
        ({}, ["cuda:3"], 1, [1], 1.0),
        ({}, ["cpu"], 1, [1], 1.0),
        ({}, ["mps"], 1, [1], 1.0),
        ({"workers": 2}, EIGHT, 2, [1, 1], 1.0),
        ({"workers": 3}, ["cpu"], 3, [1, 1, 1], 1.0),
        # Several on one have a part of its memory each, the same in every slot.
        ({"workers": 3}, GPUS, 3, [2, 1, 2], 0.5),
        ({"workers": 4}, GPUS, 4, [2, 2, 2, 2], 0.5),
        ({"workers": 2}, ["cuda:0"], 2, [2, 2], 0.5),
        ({"resources_per_trial": {"gpu": 0.5}}, GPUS, 4, [2, 2, 2, 2], 0.5),
        ({"resources_per_trial": {"gpu": 0.25}}, ["cuda:0"], 4, [4] * 4, 0.25),
        # A share is kept to by one trial, too, and it is alone.
        ({"resources_per_trial": {"gpu": 0.5}, "workers": 2}, GPUS, 2, [1, 1], 0.5),
        ({"resources_per_trial": {"gpu": 0.7}}, GPUS, 2, [1, 1], 0.7),
        ({"devices_per_trial": 2}, EIGHT, 4, [1] * 4, 1.0),
        ({"devices_per_trial": 3}, EIGHT, 2, [1, 1], 1.0),
        ({"devices_per_trial": 2, "workers": 1}, FOUR, 1, [1], 1.0),
    ],
)
def test_trials_that_share_a_gpu_have_a_part_of_it_and_count_the_others(
    keys: dict[str, Any],
    devices: list[str],
    workers: int,
    sharing: list[int],
    share: float,
    tmp_path: Path,
) -> None:
    slots = DeviceSlots.of(compute(**keys), devices)
    places = [slots.resources(slot, tmp_path) for slot in range(slots.workers)]
    assert (slots.workers, slots.gpu) == (workers, pytest.approx(share))
    assert [place.sharing for place in places] == sharing
    assert jobs_on_a_gpu(compute(**keys), devices) == max(sharing)
    for place in places:
        same = [other for other in places if other.device == place.device]
        assert place.sharing == (len(same) if place.device.startswith("cuda") else 1)
        assert slots.gpu * len(same) <= 1 or not place.device.startswith("cuda")
    own = [place.devices or (place.device,) for place in places]
    if max(sharing) == 1 and devices != ["cpu"]:
        assert len({name for each in own for name in each}) == sum(map(len, own))


@pytest.mark.parametrize("share", [1 / 8, 1 / 4, 1 / 3, 0.35, 0.5, 0.7, 1.0])
@pytest.mark.parametrize("gib", [8, 24, 80, 141])
def test_what_all_neighbours_may_allocate_leaves_room_for_the_rest_of_each(
    share: float, gib: int
) -> None:
    total = gib * 2**30
    fraction = allocator_fraction(share, total)
    if share == 1:
        assert fraction is None
        return
    assert fraction is not None and 0 < fraction < share
    processes = int(1 / share + 1e-6)
    if share * total > 2 * BESIDE_ALLOCATOR:
        assert processes * (fraction * total + BESIDE_ALLOCATOR) <= total * (1 + 1e-9)
