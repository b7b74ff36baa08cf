"""Which of an arm's settings its scores depend on: fANOVA on the completed trials.

The importance of a setting is the share of the score's variance, over the search space as it is
sampled, that the setting explains on its own (Hutter, Hoos and Leyton-Brown, ICML 2014), estimated
with Optuna's random forest and scaled so that the settings of one estimate sum to 1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter, ValidationError

from sweeper.analysis.comparison import scored_trials
from sweeper.config.base import Scalar
from sweeper.config.space import CategoricalSpace, FloatSpace, IntSpace, Space, contains
from sweeper.records import Record
from sweeper.study_record import ArmRecord

if TYPE_CHECKING:
    from optuna import Study
    from optuna.distributions import BaseDistribution

FEWEST_TRIALS = 4
"""Below this, a forest over the trials says nothing."""

MOST_TRIALS = 120
"""Of more, an even selection is used: the estimate settles long before, its time does not."""

AnySpace = FloatSpace | IntSpace | CategoricalSpace
_SPACE: TypeAdapter[AnySpace] = TypeAdapter(Space)
_Row = tuple[dict[str, Scalar], float]


class Importance(Record):
    """The importances of one arm's settings."""

    arm: str
    values: dict[str, float]
    """The share of each setting that all trials sampled, largest first; they sum to 1."""
    trials: int
    """Trials that ``values`` was estimated from."""
    conditional: dict[str, float]
    """The share of each setting that only some trials sampled (such as ``temperature``, which is
    dead at ``lmbda`` 0), within the trials that sampled every setting: not on the scale of
    ``values``."""
    conditional_trials: int
    """Trials that ``conditional`` was estimated from."""


def parameter_importance(arm: ArmRecord, seed: int = 0) -> Importance | None:
    """Estimate the importances of the settings that ``arm`` searches.

    Args:
        arm: Its completed trials are used, but for those with values outside its search space.
        seed: The forest's seed: the same records give the same numbers.

    Returns:
        None with fewer than ``FEWEST_TRIALS`` trials, when the scores do not vary, or when fewer
        than two settings do: the share of a single one is 1 whatever it does.
    """
    spaces = {name: space for name, raw in arm.search.items() if (space := _read(raw))}
    spaces = {name: space for name, space in spaces.items() if _varies(space)}
    if len(spaces) < 2:
        return None
    rows = [
        ({name: value for name, value in trial.params.items() if name in spaces}, score.score)
        for trial, score in scored_trials(arm)
        if all(_fits(spaces[name], value) for name, value in trial.params.items() if name in spaces)
    ]
    rows = _thinned(rows)
    shared = [name for name in spaces if all(name in params for params, _ in rows)]
    everywhere = [row for row in rows if len(row[0]) == len(spaces)]
    values = _fanova(shared, spaces, rows, seed)
    within = {} if len(shared) == len(spaces) else _fanova(list(spaces), spaces, everywhere, seed)
    conditional = {name: value for name, value in within.items() if name not in values}
    if not values and not conditional:
        return None
    return Importance(
        arm=arm.name,
        values=values,
        trials=len(rows),
        conditional=conditional,
        conditional_trials=len(everywhere) if conditional else 0,
    )


def _fanova(
    names: Sequence[str],
    spaces: dict[str, AnySpace],
    rows: Sequence[_Row],
    seed: int,
) -> dict[str, float]:
    """The importances of ``names`` over ``rows``, or nothing when there is too little to see."""
    if len(names) < 2 or len(rows) < FEWEST_TRIALS or len({score for _, score in rows}) < 2:
        return {}
    import optuna
    from optuna.importance import FanovaImportanceEvaluator

    study = _quiet_study()
    for params, score in rows:
        values, distributions = {}, {}
        for name in names:
            values[name], distributions[name] = _coordinate(spaces[name], params[name])
        study.add_trial(
            optuna.trial.create_trial(params=values, distributions=distributions, value=score)
        )
    evaluator = FanovaImportanceEvaluator(n_trees=32, seed=seed)
    found = evaluator.evaluate(study, params=list(names))
    total = sum(found.values())
    if not total > 0:
        return {}
    ranked = sorted(found.items(), key=lambda item: (-item[1], item[0]))
    return {name: float(value / total) for name, value in ranked}


def _quiet_study() -> Study:
    """An empty study in memory, without the line that Optuna logs for each new one."""
    import optuna

    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        return optuna.create_study()
    finally:
        optuna.logging.set_verbosity(verbosity)


def _coordinate(space: AnySpace, value: Scalar) -> tuple[Any, BaseDistribution]:
    """The value on the scale that it was sampled on, with that scale's distribution.

    fANOVA weighs a range evenly, so a parameter that was sampled by its logarithm must enter by it:
    otherwise the top of a learning rate's range would decide its importance alone.
    """
    from optuna.distributions import CategoricalDistribution, FloatDistribution

    if isinstance(space, CategoricalSpace):
        return value, CategoricalDistribution(space.choices)
    assert isinstance(value, int | float)
    if space.log:
        low, high = math.log(space.low), math.log(space.high)
        return min(max(math.log(value), low), high), FloatDistribution(low, high)
    return float(value), FloatDistribution(space.low, space.high)


def _varies(space: AnySpace) -> bool:
    if isinstance(space, CategoricalSpace):
        return len(space.choices) > 1
    return space.low < space.high


def _fits(space: AnySpace, value: Scalar) -> bool:
    if not isinstance(space, CategoricalSpace) and isinstance(value, bool):
        return False
    return contains(space, value)


def _read(raw: object) -> AnySpace | None:
    try:
        return _SPACE.validate_python(raw)
    except ValidationError:
        return None


def _thinned(rows: list[_Row]) -> list[_Row]:
    if len(rows) <= MOST_TRIALS:
        return rows
    stride = len(rows) / MOST_TRIALS
    return [rows[math.floor(index * stride)] for index in range(MOST_TRIALS)]
