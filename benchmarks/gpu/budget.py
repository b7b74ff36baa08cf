"""What there is time for."""

from __future__ import annotations

import time
from collections.abc import Callable

_FIRST_GUESS = 40.0
"""Seconds of a turn of weight 1, before one has been measured."""
_SPARE = 1.25
"""Factor by which a turn may take longer than estimated."""
_PATIENCE = 4.0
"""Factor of its estimate after which a turn is ended, and the least seconds that it gets."""
_LEAST = 90.0


class Budget:
    """Seconds for a number of turns, whose costs are estimated from the first ones'.

    Args:
        seconds: Seconds from now on.
        clock: Returns the seconds of a clock.
    """

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._end = clock() + seconds
        self._spent = self._weight = 0.0

    def left(self) -> float:
        """Return the seconds that are left."""
        return self._end - self._clock()

    def estimate(self, weight: float) -> float:
        """Return the seconds that a turn of ``weight`` probably takes."""
        unit = self._spent / self._weight if self._weight else _FIRST_GUESS
        return unit * weight

    def why_not(self, weight: float) -> str | None:
        """Return why there is no time for a turn of ``weight``; None if there is."""
        needed, left = self.estimate(weight) * _SPARE, self.left()
        if left >= needed:
            return None
        return f"needs about {needed:.0f} s, and {max(0.0, left):.0f} s are left"

    def limit(self, weight: float) -> float:
        """Return the seconds after which a turn of ``weight`` is ended."""
        return min(self.left(), max(_LEAST, _PATIENCE * self.estimate(weight)))

    def spent(self, weight: float, seconds: float) -> None:
        """Take note of what a turn of ``weight`` took."""
        self._spent += seconds
        self._weight += weight
