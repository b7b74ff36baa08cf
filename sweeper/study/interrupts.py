"""How a user stops a study."""

from __future__ import annotations


class Interrupted(BaseException):
    """The user stopped the study; it can be continued."""


class StopRequest:
    """How urgently the user wants the study to stop: 0 not, 1 after running trials, 2 now."""

    def __init__(self) -> None:
        self.level = 0

    def press(self) -> None:
        """One more Ctrl-C."""
        self.level = min(self.level + 1, 2)
