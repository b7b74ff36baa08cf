"""Whom the device-seconds of served models' servers are charged to."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sweeper.analysis.server_costs import Attempt, Job, Share, charge, share_out
from sweeper.records import Cost, Outcome, ServerRecord, ServerStart

TIMES = st.integers(0, 40).map(float)
DEVICES = st.sampled_from(["cuda:0", "cuda:1"])
ROLES = st.sampled_from(["teacher", "student"])


def start(started: float, ended: float, *devices: str, host: str = "") -> ServerStart:
    return ServerStart(
        started=started,
        last_seen=ended,
        program="vllm 0",
        devices=devices or ("cuda:1",),
        host=host,
    )


def server(*starts: ServerStart, role: str = "teacher") -> ServerRecord:
    return ServerRecord(role=role, model="m", starts=starts)


def job(
    started: float,
    ended: float,
    waited: float | dict[str, float] | None = 0.0,
    *,
    device: str = "cuda:0",
    host: str = "",
    group: str = "gkd",
) -> Job:
    waits = {"teacher": waited} if isinstance(waited, int | float) else waited
    return Job((Attempt(started, ended, (device,), host),), waits, group)


def shares(servers: list[ServerRecord], **jobs: Job) -> dict[str, dict[str, Share]]:
    return {key: dict(of) for key, of in share_out(servers, jobs).shares.items()}


def paid(costs: Any) -> float:
    return sum(part.used + part.idle for of in costs.shares.values() for part in of.values())


@st.composite
def spans(draw: st.DrawFn) -> tuple[float, float]:
    first, second = sorted((draw(TIMES), draw(TIMES)))
    return first, second


@st.composite
def server_records(draw: st.DrawFn) -> ServerRecord:
    starts = [
        start(*draw(spans()), *draw(st.sets(DEVICES, min_size=1)))
        for _ in range(draw(st.integers(0, 3)))
    ]
    return server(*starts, role=draw(ROLES))


@st.composite
def jobs_of_a_study(draw: st.DrawFn) -> dict[str, Job]:
    waits = st.none() | st.dictionaries(ROLES, TIMES, max_size=2)
    return {
        str(number): job(
            *draw(spans()),
            draw(waits),
            device=draw(DEVICES),
            group=draw(st.sampled_from(["a", "b"])),
        )
        for number in range(draw(st.integers(0, 5)))
    }


SERVERS = st.lists(server_records(), max_size=3)


@given(SERVERS, jobs_of_a_study())
def test_shares_add_up_to_what_the_servers_cost(
    servers: list[ServerRecord], jobs: dict[str, Job]
) -> None:
    costs = share_out(servers, jobs)
    recorded = [each.cost for each in costs.servers if each.cost]
    assert len(recorded) == len(servers)
    total = sum(cost.device_seconds for cost in recorded)
    assert paid(costs) + sum(cost.unshared for cost in recorded) == pytest.approx(total)
    parts = [part for of in costs.shares.values() for part in of.values()]
    assert all(min(part) >= 0 for part in parts)
    idle = sum(cost.idle for cost in recorded if not cost.unshared)
    assert sum(part.idle for part in parts) == pytest.approx(idle)


@given(SERVERS, jobs_of_a_study())
def test_no_second_of_a_device_counts_twice(
    servers: list[ServerRecord], jobs: dict[str, Job]
) -> None:
    """All times are whole seconds here, so that they can be counted one by one."""
    expected = 0
    for device in ("cuda:0", "cuda:1"):
        for second in range(40):
            up = any(
                each.started <= second < each.last_seen and device in each.devices
                for one in servers
                for each in one.starts
            )
            busy = any(
                attempt.started <= second < attempt.ended and device in attempt.devices
                for one in jobs.values()
                for attempt in one.attempts
            )
            expected += up and not busy
    found = share_out(servers, jobs).servers
    assert sum(one.device_seconds for one in found) == pytest.approx(expected)


@given(SERVERS, jobs_of_a_study(), st.randoms(use_true_random=False))
def test_the_order_of_jobs_does_not_matter(
    servers: list[ServerRecord], jobs: dict[str, Job], random: Any
) -> None:
    keys = list(jobs)
    random.shuffle(keys)
    ordered, shuffled = (
        share_out(servers, jobs),
        share_out(servers, {key: jobs[key] for key in keys}),
    )
    assert ordered.shares.keys() == shuffled.shares.keys()
    for key, of in ordered.shares.items():
        for role, part in of.items():
            assert part == pytest.approx(shuffled.shares[key][role])


@given(SERVERS, jobs_of_a_study(), TIMES)
def test_two_starts_back_to_back_cost_what_one_does(
    servers: list[ServerRecord], jobs: dict[str, Job], at: float
) -> None:
    def halved(one: ServerStart) -> tuple[ServerStart, ...]:
        if not one.started < at < one.last_seen:
            return (one,)
        return one.model_copy(update={"last_seen": at}), one.model_copy(update={"started": at})

    split = [
        one.model_copy(
            update={"starts": tuple(part for each in one.starts for part in halved(each))}
        )
        for one in servers
    ]
    whole, parts = share_out(servers, jobs), share_out(split, jobs)
    for before, after in zip(whole.servers, parts.servers, strict=True):
        assert before.device_seconds == pytest.approx(after.device_seconds)
    for key, of in whole.shares.items():
        for role, part in of.items():
            assert part == pytest.approx(parts.shares[key][role])


@given(jobs_of_a_study())
def test_without_servers_nothing_is_charged(jobs: dict[str, Job]) -> None:
    assert share_out([], jobs) == ((), {})


def test_a_server_on_a_gpu_of_its_own_is_paid_by_how_long_jobs_waited() -> None:
    teacher = server(start(0, 100))
    found = shares([teacher], a=job(20, 60, 10), b=job(40, 80, 30), c=job(0, 100, 0))
    # From 20 to 40 a pays alone, to 60 a quarter, as it waits a third as often; then b alone. In
    # the other 40 s the server started, or waited for work.
    assert found == {"a": {"teacher": (25, 10)}, "b": {"teacher": (35, 30)}}


def test_a_job_pays_for_no_other_jobs_time() -> None:
    teacher = server(start(0, 1000, "cuda:1"))
    answers = job(0, 100, 90, group="preparation")
    # It hardly waits, as it asks ahead; and yet the server is up for it.
    found = shares([teacher], answers=answers, trial=job(100, 1000, 0.001))
    assert found["answers"]["teacher"] == pytest.approx((100, 0))
    assert found["trial"]["teacher"] == pytest.approx((900, 0))


def test_a_server_on_the_device_of_trials_costs_what_they_leave() -> None:
    student = server(start(0, 100, "cuda:0"), role="student")
    waits = {"student": 5.0}
    costs = share_out([student], {"a": job(30, 60, waits), "b": job(60, 95, waits)})
    assert costs.shares == {"a": {"student": (0, 17.5)}, "b": {"student": (0, 17.5)}}


def test_servers_on_one_device_share_its_seconds() -> None:
    servers = [server(start(0, 30, "cuda:0")), server(start(10, 30, "cuda:0"), role="student")]
    costs = share_out(servers, {})
    assert [one.device_seconds for one in costs.servers] == [20, 10]
    assert [one.cost and one.cost.unshared for one in costs.servers] == [20, 10]


def test_each_device_has_a_server_of_its_own() -> None:
    servers = [
        server(start(0, 50, "cuda:0"), role="student"),
        server(start(0, 60, "cuda:1"), role="student"),
    ]
    waits = {"student": 1.0}
    costs = share_out(servers, {"a": job(10, 50, waits), "b": job(0, 30, waits, device="cuda:1")})
    assert costs.shares == {"a": {"student": (0, 10)}, "b": {"student": (0, 30)}}


def test_devices_of_other_machines_are_others() -> None:
    teacher = server(start(0, 10, "cuda:0", host="one"))
    elsewhere = job(0, 10, 1, host="two")
    assert shares([teacher], a=elsewhere) == {"a": {"teacher": (10, 0)}}
    assert shares([teacher], a=replace(elsewhere, attempts=job(0, 10, 1, host="one").attempts)) == {
        "a": {"teacher": (0, 0)}
    }


def test_a_job_that_reported_no_waits_is_taken_for_one_of_its_arm() -> None:
    teacher = server(start(0, 100))
    found = shares(
        [teacher],
        ended=job(0, 50, 10),
        failed=job(50, 75, None),
        other=job(75, 100, None, group="sft"),
    )
    assert found == {
        "ended": {"teacher": (pytest.approx(50), pytest.approx(50 / 3))},
        "failed": {"teacher": (pytest.approx(25), pytest.approx(25 / 3))},
    }


def test_a_share_is_a_part_of_a_jobs_cost_of_its_own() -> None:
    cost = Cost(device_seconds=40, seconds={"student": 30.0, "load": 10.0}, served={"teacher": 4.0})
    outcome = Outcome(state="completed", cost=cost, started=0, finished=20, devices=2)
    found = charge(outcome, {"teacher": Share(6, 2), "student": Share(0, 1)})
    assert found.cost.device_seconds == 49
    assert (found.cost.own_seconds, found.wall_seconds) == (40, 20)
    assert found.cost.servers == {"teacher": 8, "student": 1}
    assert found.cost.seconds == {
        "student": 30, "load": 10, "teacher_server": 6, "student_server": 0, "idle_servers": 3
    }  # fmt: skip
    # 30 of its own 40 s grow with the steps; servers' starts do not, as loading does not.
    assert found.cost.training_seconds() == 30 + 6 * 30 / 40
    assert charge(outcome, {}) is outcome
