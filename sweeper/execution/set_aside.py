"""Devices of one machine that get no more jobs, because jobs failed on them."""

from __future__ import annotations

from collections.abc import Collection, Sequence


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
