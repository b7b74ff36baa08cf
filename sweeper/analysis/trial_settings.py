"""What a trial was trained with, as numbers that statistics can take."""

from __future__ import annotations

import math

from sweeper.study_record import TrialRecord


def finite_number(value: object) -> float | None:
    """``value`` if it is a finite number; True and False are none."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def number_of(trial: TrialRecord, name: str) -> float | None:
    """A trial's setting, sampled or fixed, if it is a finite number."""
    return finite_number(trial.params.get(name, trial.settings.get(name)))
