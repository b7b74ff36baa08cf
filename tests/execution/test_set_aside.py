"""Slots of a machine some of whose devices are set aside, or to be avoided by a job."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import pytest

from sweeper.config.compute import ComputeConfig
from sweeper.execution.local import LocalExecutor

GPUS = [f"cuda:{index}" for index in range(4)]


def executor(devices: Sequence[str] = GPUS, **compute: Any) -> LocalExecutor:
    share = compute.pop("resources_per_trial", {"gpu": 1})
    return LocalExecutor(ComputeConfig(resources_per_trial=share, **compute), devices)


def places(found: LocalExecutor, avoid: Collection[str] = ()) -> tuple[str, ...]:
    place = found.next_resources(Path("job"), avoid)
    return place.devices or (place.device,)


@pytest.mark.parametrize(
    ("compute", "aside", "workers"),
    [
        ({}, (), 4),
        ({}, ("cuda:1",), 3),
        ({}, GPUS[:3], 1),
        ({}, GPUS, 0),
        ({"resources_per_trial": {"gpu": 0.5}}, ("cuda:1",), 6),
        ({"devices_per_trial": 2}, ("cuda:1",), 1),
        ({"devices_per_trial": 2}, ("cuda:0", "cuda:2"), 0),
        ({"workers": 2}, ("cuda:3",), 2),
        ({}, ("another machine's",), 4),
    ],
)
def test_as_many_workers_are_left_as_slots_without_such_a_device(
    compute: dict[str, Any], aside: Sequence[str], workers: int
) -> None:
    found = executor(**compute)
    found.set_aside(aside)
    assert found.free() == workers
    assert found.exhausted() == (workers == 0)
    if workers:
        assert not set(places(found)) & set(aside)
    # Not for ever.
    found.set_aside(())
    assert not found.exhausted()
    assert found.free() == executor(**compute).free()


@pytest.mark.parametrize(
    ("compute", "aside", "avoid", "free", "place"),
    [
        ({}, (), ("cuda:0",), 3, ("cuda:1",)),
        ({}, ("cuda:1",), ("cuda:0",), 2, ("cuda:2",)),
        # Nothing else is left: better there than nowhere.
        ({}, GPUS[1:], ("cuda:0",), 1, ("cuda:0",)),
        ({"devices_per_trial": 2}, (), ("cuda:1",), 1, ("cuda:2", "cuda:3")),
        ({"devices_per_trial": 4}, (), ("cuda:1",), 1, tuple(GPUS)),
    ],
)
def test_a_job_avoids_a_device_where_there_is_another(
    compute: dict[str, Any],
    aside: Sequence[str],
    avoid: Sequence[str],
    free: int,
    place: tuple[str, ...],
) -> None:
    found = executor(**compute)
    found.set_aside(aside)
    assert found.free(avoid) == free
    assert places(found, avoid) == place


def test_where_no_slot_is_left_there_is_still_a_place_to_name() -> None:
    found = executor(GPUS[:1])
    found.set_aside(GPUS[:1])
    assert places(found)
