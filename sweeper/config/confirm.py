"""The confirmation runs after the search, which show if its winners are better or were lucky."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from sweeper.config.base import PositiveInt, Strict

CostMeasure = Literal["steps", "tokens", "device_seconds"]
"""Cost that is equal for all arms when they are compared."""


class ConfirmConfig(Strict):
    """The best trials of each arm, trained again with new seeds and scored on the test suite.

    Without `evaluation.test` there is nothing to confirm on.
    """

    top_k: PositiveInt = 1
    """Number of each arm's completed trials that are confirmed, the best first."""
    seeds: Annotated[int, Field(ge=0)] = 5
    """Number of times that each is trained; the same seeds for all arms. 0: no confirmation. One
    seed says nothing about others, and two little: from three on, intervals can be trusted."""
