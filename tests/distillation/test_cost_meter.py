"""Seconds and counts of a training, on the host's clock and on one that runs behind it."""

from __future__ import annotations

import time
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sweeper.distillation.clocks import EventClock, HostClock
from sweeper.distillation.cost_meter import CostMeter


class Queue:
    """A device that works behind the host, and its clock: a moment is a place in the queue."""

    def __init__(self) -> None:
        self.queued = 0.0
        self.done = 0.0
        self.waits = 0

    def work(self, seconds: float) -> None:
        self.queued += seconds

    def mark(self) -> float:
        return self.queued

    def has_reached(self, moment: float) -> bool:
        return moment <= self.done

    def seconds(self, start: float, end: float) -> float:
        if end > self.done:
            self.waits, self.done = self.waits + 1, end
        return end - start


def a_micro_batch(meter: CostMeter, device: Queue) -> None:
    with meter.timing("rollout"):
        device.work(4)
    with meter.timing("student"):
        device.work(1)
        with meter.timing("teacher"):
            device.work(2)
        device.work(8)
    device.work(0.5)  # of no part
    meter.start("optimiser")
    device.work(16)
    meter.stop()


EACH = {"rollout": 4.0, "student": 9.0, "teacher": 2.0, "optimiser": 16.0}


def test_nothing_waits_before_counts_are_read() -> None:
    device = Queue()
    meter = CostMeter(device)
    for _ in range(3):
        a_micro_batch(meter, device)
        meter.add("trained_tokens", torch.tensor(5))
    assert device.waits == 0
    point = meter.read()
    assert {
        f"seconds_{part}": 3 * seconds for part, seconds in EACH.items()
    }.items() <= point.items()
    assert point["trained_tokens"] == 15
    a_micro_batch(meter, device)
    assert meter.read()["seconds_teacher"] == 2
    assert meter.cost().seconds == {part: 4 * seconds for part, seconds in EACH.items()}


def test_parts_that_are_done_are_counted_without_a_wait() -> None:
    device = Queue()
    meter = CostMeter(device)
    for _ in range(100):
        a_micro_batch(meter, device)
        device.done = device.queued
    assert device.waits == 0
    assert len(meter._laps) <= len(EACH) + 1


def test_counts_stay_on_their_device_until_they_are_read() -> None:
    meter = CostMeter()
    for _ in range(2):
        meter.add("trained_tokens", torch.zeros((), device="meta"))  # it cannot be read
    with pytest.raises(RuntimeError, match="meta"):
        meter.read()


PARTS = st.recursive(
    st.just(()),
    lambda inner: st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 9), inner), max_size=3),
    max_leaves=12,
)


@given(PARTS)
def test_parts_add_up_to_the_whole(parts: Any) -> None:
    device = Queue()
    meter = CostMeter(device)

    def run(some: Any) -> None:
        for name, seconds, inner in some:
            with meter.timing(name):
                device.work(seconds)
                run(inner)
                device.work(seconds)

    run(parts)
    assert sum(meter.cost().seconds.values()) == device.queued


def test_a_part_that_fails_is_counted_and_ends() -> None:
    device = Queue()
    meter = CostMeter(device)
    with meter.timing("student"), pytest.raises(ValueError), meter.timing("teacher"):
        device.work(2)
        raise ValueError
    with meter.timing("student"):
        device.work(1)
    assert meter.cost().seconds == {"student": 1, "teacher": 2}


def test_an_earlier_process_adds_its_counts() -> None:
    device = Queue()
    meter = CostMeter(device, ("teacher",))
    assert meter.cost().seconds == {"teacher": 0}
    with meter.timing("teacher"):
        device.work(2)
    meter.resume({"seconds_teacher": 5.0, "trained_tokens": 7.0}, {"seconds_teacher": 1.0}, 3)
    cost, point = meter.cost(), meter.read()
    assert (cost.steps, cost.seconds["teacher"], cost.trained_tokens) == (3, 7, 7)
    assert point["seconds_teacher"] == 1


def test_the_hosts_clock() -> None:
    meter, began = CostMeter(HostClock()), time.perf_counter()
    with meter.timing("student"):
        sum(range(10_000))
    assert 0 < meter.cost().seconds["student"] <= time.perf_counter() - began


@pytest.mark.gpu
def test_the_gpus_clock() -> None:
    device = torch.device("cuda")
    numbers = torch.randn(4096, 4096, device=device)
    meter = CostMeter(EventClock(device))
    torch.cuda.synchronize()
    began = time.perf_counter()
    for _ in range(3):
        with meter.timing("student"):
            for _ in range(20):
                numbers = (numbers @ numbers).clamp_(-1, 1)
    queued = time.perf_counter() - began
    torch.cuda.synchronize()
    whole = time.perf_counter() - began
    assert meter.cost().seconds["student"] == pytest.approx(whole, rel=0.2)
    assert queued < whole / 2, "the host did not wait"
