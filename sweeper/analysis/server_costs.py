"""Costs of served models: the device-seconds of their servers, shared out among jobs. Pure.

A server costs the seconds that it is up on a device while no job of the study runs there: a second
of a device counts once. Several servers on a device share such a second evenly.

The jobs that used a server pay for it. While some of them run, these share its seconds, in
proportion to the part of their time that each waited for it. The other seconds, in which it starts
or waits for work, are shared by all of them, in proportion to the seconds that each waited. So the
shares add up to what the server costs. One that no job used costs the study, and no job.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

from sweeper.records import Outcome, ServerCost, ServerRecord
from sweeper.records.outcomes import IDLE_SERVERS, server_part

Span = tuple[float, float]
"""Start and end, in seconds since the epoch."""


class Attempt(NamedTuple):
    """An attempt of a job on its devices."""

    started: float
    ended: float
    devices: tuple[str, ...]
    host: str = ""
    """Machine that it ran on; empty: that of every server."""


@dataclass(frozen=True)
class Job:
    """A job as the servers of a study see it.

    Attributes:
        attempts: Its attempts, unfinished ones included.
        waited: Seconds that it waited for each served model, by role; None if it has not reported
            them, because it still runs or has failed.
        group: Jobs that are alike: where one has not reported, it is taken to have waited for the
            same share of its time as the others.
    """

    attempts: tuple[Attempt, ...]
    waited: Mapping[str, float] | None
    group: str = ""

    @property
    def spans(self) -> list[Span]:
        """Spans of its attempts."""
        return [(attempt.started, attempt.ended) for attempt in self.attempts]

    @property
    def seconds(self) -> float:
        """Seconds of all attempts."""
        return sum(end - start for start, end in self.spans)


class Share(NamedTuple):
    """Device-seconds of a server that a job pays for."""

    used: float
    """Share of the seconds in which jobs that used the server ran."""
    idle: float
    """Share of those in which none did."""


Shares = Mapping[str, Share]
"""Shares of one job, by the server's role."""


class ServerCosts(NamedTuple):
    """What servers cost, and who pays."""

    servers: tuple[ServerRecord, ...]
    """The servers with their costs."""
    shares: Mapping[str, Shares]
    """Shares of the jobs that used one, by the job's key."""


def share_out(servers: Sequence[ServerRecord], jobs: Mapping[str, Job]) -> ServerCosts:
    """Share the device-seconds of ``servers`` out among ``jobs``, which are all of the study's.

    A job used the server of a role that was on one of its devices; if none of that role was, all.
    """
    waits = _waits(jobs)
    own = [_own_places(server) for server in servers]
    charged = _charged_spans(servers, jobs.values())
    shares: dict[str, dict[str, Share]] = defaultdict(dict)
    costs = []
    for index, server in enumerate(servers):
        alike = [other for at, other in enumerate(own) if servers[at].role == server.role]
        users = {
            key: waited[server.role]
            for key, waited in waits.items()
            if waited.get(server.role, 0.0) > 0 and _uses(jobs[key], own[index], alike)
        }
        total = sum(weight * (end - start) for start, end, weight in charged[index])
        used = _used(charged[index], {key: (jobs[key], wait) for key, wait in users.items()})
        idle = max(total - sum(used.values()), 0.0)
        cost = ServerCost(device_seconds=total, idle=idle, unshared=0.0 if users else total)
        costs.append(server.model_copy(update={"cost": cost}))
        waited = sum(users.values())
        for key, seconds in users.items():
            before = shares[key].get(server.role, Share(0.0, 0.0))
            share = Share(before.used + used[key], before.idle + idle * seconds / waited)
            shares[key][server.role] = share
    return ServerCosts(tuple(costs), dict(shares))


def charge(outcome: Outcome, shares: Shares) -> Outcome:
    """Add a job's shares to its cost."""
    if not shares:
        return outcome
    cost = outcome.cost
    parts = {server_part(role): share.used for role, share in shares.items()}
    parts[IDLE_SERVERS] = sum(share.idle for share in shares.values())
    servers = {role: share.used + share.idle for role, share in shares.items()}
    changes = {
        "device_seconds": cost.device_seconds + sum(servers.values()),
        "seconds": cost.seconds | parts,
        "servers": servers,
    }
    return outcome.model_copy(update={"cost": cost.model_copy(update=changes)})


_Place = tuple[str, str]
"""Host and device."""


def _own_places(server: ServerRecord) -> frozenset[_Place]:
    return frozenset((start.host, device) for start in server.starts for device in start.devices)


def _uses(job: Job, server: frozenset[_Place], alike: Sequence[frozenset[_Place]]) -> bool:
    """Return whether a job that used a server of a role used this one."""
    return _meet(job, server) or not any(_meet(job, other) for other in alike)


def _meet(job: Job, places: Iterable[_Place]) -> bool:
    return any(_is_on(attempt, place) for attempt in job.attempts for place in places)


def _is_on(attempt: Attempt, place: _Place) -> bool:
    host, device = place
    return device in attempt.devices and (attempt.host == host or not (attempt.host and host))


def _waits(jobs: Mapping[str, Job]) -> dict[str, Mapping[str, float]]:
    """Return how long each job waited, by role; of those that did not report, an estimate."""
    seconds: dict[str, float] = defaultdict(float)
    totals: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    for job in jobs.values():
        if job.waited is not None:
            seconds[job.group] += job.seconds
            for role, waited in job.waited.items():
                totals[job.group][role] += waited
    waits: dict[str, Mapping[str, float]] = {}
    for key, job in jobs.items():
        if job.waited is not None:
            waits[key] = job.waited
        elif known := seconds[job.group]:
            share = job.seconds / known
            waits[key] = {role: total * share for role, total in totals[job.group].items()}
    return waits


def _charged_spans(
    servers: Sequence[ServerRecord], jobs: Iterable[Job]
) -> list[list[tuple[float, float, float]]]:
    """Return, by server, the spans of its devices that it costs, each with its part of them."""
    attempts = [attempt for job in jobs for attempt in job.attempts]
    up: dict[_Place, list[tuple[float, float, int]]] = defaultdict(list)
    for index, server in enumerate(servers):
        for start in server.starts:
            for device in start.devices:
                up[start.host, device].append((start.started, start.last_seen, index))
    charged: list[list[tuple[float, float, float]]] = [[] for _ in servers]
    for place, starts in up.items():
        busy = _union((a.started, a.ended) for a in attempts if _is_on(a, place))
        times = sorted({time for start, end, _ in starts for time in (start, end)})
        for begin, end in pairwise(times):
            here = [index for start, last, index in starts if start <= begin and end <= last]
            for first, last in _free((begin, end), busy) if here else ():
                for index in here:
                    charged[index].append((first, last, 1 / len(here)))
    return charged


def _used(
    charged: Sequence[tuple[float, float, float]], users: Mapping[str, tuple[Job, float]]
) -> dict[str, float]:
    """Return the seconds of ``charged`` spans that each of a server's users pays while some run.

    ``users`` are jobs with the seconds that they waited.
    """
    spans = {key: _union(job.spans) for key, (job, _) in users.items()}
    rates = {
        key: users[key][1] / seconds
        for key, own in spans.items()
        if (seconds := sum(end - start for start, end in own)) > 0
    }
    begins: dict[float, list[tuple[str | int, float]]] = defaultdict(list)
    ends: dict[float, list[str | int]] = defaultdict(list)
    for number, (start, end, weight) in enumerate(charged):
        begins[start].append((number, weight))
        ends[end].append(number)
    for key, rate in rates.items():
        for start, end in spans[key]:
            begins[start].append((key, rate))
            ends[end].append(key)
    # Up to each moment: what a user of rate 1 would have paid.
    paid: dict[float, float] = {}
    price, before = 0.0, 0.0
    devices: dict[str | int, float] = {}
    running: dict[str | int, float] = {}
    for time in sorted({*begins, *ends}):
        if running and devices:
            price += sum(devices.values()) * (time - before) / sum(running.values())
        paid[time], before = price, time
        for name in ends[time]:
            (running if isinstance(name, str) else devices).pop(name)
        for name, value in begins[time]:
            (running if isinstance(name, str) else devices)[name] = value
    return {
        key: rates.get(key, 0.0) * sum(paid[end] - paid[start] for start, end in own)
        for key, own in spans.items()
    }


def _union(spans: Iterable[Span]) -> list[Span]:
    """Return what the spans cover, as disjoint spans in order."""
    covered: list[Span] = []
    for start, end in sorted(spans):
        if covered and start <= covered[-1][1]:
            covered[-1] = (covered[-1][0], max(covered[-1][1], end))
        elif end > start:
            covered.append((start, end))
    return covered


def _free(span: Span, busy: Sequence[Span]) -> Iterator[Span]:
    """Yield what of a span the ``busy`` ones, disjoint and in order, leave."""
    at, end = span
    for first, last in busy:
        if last <= at:
            continue
        if first >= end:
            break
        if first > at:
            yield at, first
        at = last
    if at < end:
        yield at, end
