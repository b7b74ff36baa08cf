"""Devices that get no more jobs, because jobs failed on them: of one machine, or of a cluster."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from sweeper.execution.executor import Finished


class SetAside:
    """Chooses among the slots of a machine those whose devices may be used.

    Args:
        slots: Devices of each slot.
    """

    def __init__(self, slots: Sequence[tuple[str, ...]]) -> None:
        self._slots = slots
        self._aside: frozenset[str] = frozenset()

    def set(self, devices: Collection[str]) -> None:
        """Set these devices aside, and use all others."""
        self._aside = frozenset(devices)

    def usable(self, avoid: Collection[str] = ()) -> list[int]:
        """Return the slots without a device that is set aside, nor one to ``avoid``.

        Where all of them have one to avoid, that does not count.
        """
        left = [at for at, own in enumerate(self._slots) if self._aside.isdisjoint(own)]
        others = [at for at in left if not set(avoid).intersection(self._slots[at])]
        return others or left


class NodesSetAside:
    """Nodes of a cluster that are avoided, or get no more jobs, because of their devices.

    The cluster chooses the devices of a job, so that a node is used with all of its devices or not
    at all.
    """

    def __init__(self) -> None:
        self._nodes: dict[str, str] = {}
        """Id of the node of each device that a job failed on, by the device's name."""
        self.aside: frozenset[str] = frozenset()
        """Ids of the nodes that get no jobs."""

    def notice(self, finished: Finished, node: str) -> None:
        """Remember which node the devices are of that a job failed on."""
        outcome = finished.outcome
        failure = finished.fault or (outcome.failure if outcome is not None else None)
        for name in failure.devices if failure is not None else ():
            self._nodes[name] = node

    def set(self, devices: Collection[str]) -> None:
        """Set the nodes of these devices aside, and use all others."""
        self.aside = self.of(devices)

    def of(self, devices: Collection[str]) -> frozenset[str]:
        """Return the ids of the nodes of devices that jobs failed on."""
        return frozenset(self._nodes[name] for name in devices if name in self._nodes)
