"""Optuna's pruners, given what a study scores in the middle of its trials.

A pruner compares trials by values at whole-numbered steps. What a step is here:

- ``median``: the index of the point.
- ``asha``, ``hyperband``: ``reduction_factor`` to the power of the index, so that each point is one
  rung, whatever the number of optimiser steps between them.
- ``wilcoxon``: one step for each document at each point, in the same order in all trials, because
  the test pairs them; and one more for their aggregate, the last, by which samplers rank trials.
"""

from __future__ import annotations

import copy
import warnings

import optuna
from optuna.pruners import (
    BasePruner,
    HyperbandPruner,
    MedianPruner,
    NopPruner,
    SuccessiveHalvingPruner,
    WilcoxonPruner,
)
from optuna.trial import FrozenTrial

from sweeper.config.search import PrunerConfig
from sweeper.records import IntermediateScore

_RUNG = "completed_rung_"
"""Mark of Optuna's successive halving on a trial that has come so far."""
_P_THRESHOLD = 0.1


def make_pruner(config: PrunerConfig) -> BasePruner:
    """Return Optuna's pruner for ``config``."""
    factor = config.reduction()
    if config.type == "median":
        # Startup trials are counted for all pruners alike, by their caller.
        return MedianPruner(n_startup_trials=1)
    if config.type == "asha":
        return SuccessiveHalvingPruner(min_resource=1, reduction_factor=factor)
    if config.type == "hyperband":
        # Brackets: one that begins at each point, and one that prunes nothing.
        most = factor ** len(config.points())
        return HyperbandPruner(min_resource=1, max_resource=most, reduction_factor=factor)
    if config.type == "wilcoxon":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            return WilcoxonPruner(p_threshold=config.p_threshold or _P_THRESHOLD)
    return NopPruner()


def values_by_step(config: PrunerConfig, interim: IntermediateScore) -> dict[int, float]:
    """Return what to report to Optuna of a trial's score at one point, by step."""
    if config.type == "wilcoxon":
        values = (*interim.documents, interim.score)
        first = interim.index * len(values)
        return {first + place: value for place, value in enumerate(values)}
    if config.type == "median":
        return {interim.index: interim.score}
    return {config.reduction() ** interim.index: interim.score}


def rungs(trial: FrozenTrial) -> int:
    """Return how many rungs of successive halving ``trial`` is marked with."""
    return sum(name.startswith(_RUNG) for name in trial.system_attrs)


def with_rungs(trial: FrozenTrial, count: int) -> FrozenTrial:
    """Return ``trial`` with only the first ``count`` of its rungs.

    A process that is killed while its pruner decides may leave a mark of the decision behind; the
    decision is then made again, from where it was first made.
    """
    kept = copy.copy(trial)
    kept.system_attrs = {
        name: value
        for name, value in trial.system_attrs.items()
        if not name.startswith(_RUNG) or int(name.removeprefix(_RUNG)) < count
    }
    return kept
