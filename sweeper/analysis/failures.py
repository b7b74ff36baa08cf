"""Where in an arm's search space its trials failed.

For each kind of failure the one cut through one setting is sought that separates the failed trials
best from the others: a threshold, or a choice. A cut's p is that of Fisher's exact test, one-sided.
Because the best of many cuts is taken, what decides is how often a cut as good is found when the
failures are dealt out to the trials at random (Westfall and Young's min-p procedure).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from operator import attrgetter
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError
from scipy import special

from sweeper.analysis.stats.significance import ALPHA
from sweeper.config.base import Scalar
from sweeper.config.study import StudyConfig
from sweeper.records import FailureKind, Record
from sweeper.records.remedies import advice, setup_of
from sweeper.records.study_record import ArmRecord, StudyRecord, TrialRecord, finite_number

FEWEST = 2
"""Failures of a kind, and other trials, below which no region is sought."""
MOST_THRESHOLDS = 40
"""Of one setting; of more, an even selection."""
_DRAWS = 999
_ROWS = "per_device_train_batch_size"
_BATCHES = (_ROWS, "gradient_accumulation_steps", "rollout_batch_size")
"""What changes in a trial that is tried again because it ran out of memory."""


class Region(Record):
    """A part of the search space that has most failures of a kind and few other trials."""

    setting: str
    relation: Literal["at least", "at most", "is"]
    value: Scalar
    failed_inside: int
    failed: int
    others_inside: int
    others: int
    """Trials of the arm that have ended otherwise."""
    p_fisher: float
    """Of this cut alone, one-sided."""
    p: float
    """That some cut as good would be found by chance."""


class FailureGroup(Record):
    """The failures of one kind in one arm."""

    arm: str
    kind: FailureKind
    trials: tuple[int, ...]
    """Their numbers."""
    ended: int
    """Trials of the arm that have ended, however they did."""
    region: Region | None
    """Where they happened, if that is told from chance."""
    remedies: tuple[str, ...] = ()
    """What to try, in the order to try it."""


def failure_groups(record: StudyRecord) -> tuple[FailureGroup, ...]:
    """The failures of each arm by their kind, the most frequent first."""
    return tuple(group for arm in record.arms for group in _groups(arm, record.config))


def _groups(arm: ArmRecord, config: dict[str, Any]) -> list[FailureGroup]:
    ended = [trial for trial in arm.trials if trial.state in ("completed", "pruned", "failed")]
    counts = Counter(kind for trial in ended if (kind := failure_kind(trial)))
    found = []
    for kind, _ in sorted(counts.items(), key=lambda item: (-item[1], item[0])):
        failed = [failure_kind(trial) == kind for trial in ended]
        failed_trials = [t for t, is_one in zip(ended, failed, strict=True) if is_one]
        found.append(
            FailureGroup(
                arm=arm.name,
                kind=kind,
                trials=tuple(trial.number for trial in failed_trials),
                ended=len(ended),
                region=_region(ended, np.array(failed)),
                remedies=_lighter(arm, config, failed_trials)
                if kind == "out_of_memory"
                else _remedies(max(failed_trials, key=attrgetter("number"))),
            )
        )
    return found


def _lighter(
    arm: ArmRecord, config: dict[str, Any], trials: Sequence[TrialRecord]
) -> tuple[str, ...]:
    """As the trial says that failed with the fewest rows in a micro-batch."""
    lightest = min(trials, key=lambda trial: trial.settings.get(_ROWS, math.inf))
    # Old records do not say it.
    return _remedies(lightest) or _computed(arm, config, lightest)


def _computed(arm: ArmRecord, config: dict[str, Any], trial: TrialRecord) -> tuple[str, ...]:
    try:
        study = StudyConfig.model_validate(config)
    except ValidationError:  # another version's
        return ()
    if arm.name not in study.arms:
        return ()
    setup = setup_of(
        study.arms[arm.name],
        trial.params,
        training=study.training,
        student=study.student,
        teacher=study.teacher,
        compute=study.compute,
    )
    # It was tried again with half the rows.
    tried = {name: trial.settings[name] for name in _BATCHES if name in trial.settings}
    return tuple(advice(replace(setup, settings=setup.settings.model_copy(update=tried))))


def _remedies(trial: TrialRecord) -> tuple[str, ...]:
    """As the trial says itself."""
    outcome = trial.outcome
    return outcome.failure.remedies if outcome is not None and outcome.failure is not None else ()


def failure_kind(trial: TrialRecord) -> FailureKind | None:
    """Why a trial failed, if it did."""
    if trial.state != "failed" or trial.outcome is None or trial.outcome.failure is None:
        return None
    return trial.outcome.failure.kind


_Cut = tuple[str, Literal["at least", "at most", "is"], Scalar, NDArray[np.bool_]]


def _region(trials: Sequence[TrialRecord], failed: NDArray[np.bool_]) -> Region | None:
    count = int(failed.sum())
    if count < FEWEST or len(trials) - count < FEWEST:
        return None
    cuts = [
        cut for name in sorted({n for t in trials for n in t.params}) for cut in _cuts(trials, name)
    ]
    if not cuts:
        return None
    inside = np.stack([members for _, _, _, members in cuts])
    rng = np.random.default_rng(0)
    dealt = rng.permuted(np.tile(failed, (_DRAWS, 1)), axis=1).T
    found = _fisher(inside, np.column_stack([failed, dealt]))
    p_values = found[:, 0]
    best = int(p_values.argmin())
    as_good = found[:, 1:].min(axis=0) <= p_values[best]
    p = (1 + int(as_good.sum())) / (_DRAWS + 1)
    if p > ALPHA:
        return None
    name, relation, value, members = cuts[best]
    return Region(
        setting=name,
        relation=relation,
        value=value,
        failed_inside=int((members & failed).sum()),
        failed=count,
        others_inside=int((members & ~failed).sum()),
        others=len(trials) - count,
        p_fisher=float(p_values[best]),
        p=p,
    )


def _fisher(inside: NDArray[np.bool_], failed: NDArray[np.bool_]) -> NDArray[np.float64]:
    """The p of every cut (rows) for every way to deal out the failures (columns)."""
    hits = (inside.astype(np.float32) @ failed.astype(np.float32)).astype(int)
    counts = np.arange(int(failed[:, 0].sum()) + 1)
    sizes = inside.sum(axis=1)[:, None]
    # The hypergeometric distribution; scipy's own takes seconds for thousands of trials.
    ways = _log_choose(sizes, counts) + _log_choose(len(failed) - sizes, counts[::-1])
    chances = np.exp(ways - _log_choose(np.array(len(failed)), counts[-1:]))
    # That so many failures are inside, or more.
    tails = np.cumsum(chances[:, ::-1], axis=1)[:, ::-1]
    found: NDArray[np.float64] = np.take_along_axis(tails, hits, axis=1)
    return found


def _log_choose(total: NDArray[np.intp], chosen: NDArray[np.intp]) -> NDArray[np.float64]:
    """The logarithm of the number of ways; -inf where there is none."""
    left = total - chosen
    found = special.gammaln(total + 1) - special.gammaln(chosen + 1) - special.gammaln(left + 1)
    return np.where(left < 0, -np.inf, found)


def _cuts(trials: Sequence[TrialRecord], name: str) -> list[_Cut]:
    """The cuts through one setting that have trials on both sides.

    A trial that did not sample the setting is on the far side of all of them.
    """
    sampled = [trial.params.get(name) for trial in trials]
    present = [value for value in sampled if value is not None]
    numbers = [finite_number(value) for value in sampled]
    found: list[_Cut] = []
    if all(isinstance(v, int | float) and not isinstance(v, bool) for v in present):
        values = np.array([np.nan if value is None else value for value in numbers])
        distinct = np.unique(values[~np.isnan(values)]).tolist()
        pairs = list(pairwise(distinct))
        if len(pairs) > MOST_THRESHOLDS:
            stride = len(pairs) / MOST_THRESHOLDS
            pairs = [pairs[int(index * stride)] for index in range(MOST_THRESHOLDS)]
        for below, above in pairs:
            found.append((name, "at least", above, values >= above))
            found.append((name, "at most", below, values <= below))
    else:
        for choice in dict.fromkeys(present):
            members = np.array([value is not None and value == choice for value in sampled])
            if not members.all():
                found.append((name, "is", choice, members))
    return found
