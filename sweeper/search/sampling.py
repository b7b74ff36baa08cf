"""From an arm's search space to a trial's parameters; what can have no effect is not sampled."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING

from sweeper.config.arms import ArmConfig
from sweeper.config.base import Scalar
from sweeper.config.settings import DECISIVE, is_dead
from sweeper.config.space import CategoricalSpace, FloatSpace, IntSpace

if TYPE_CHECKING:
    # Who only reads a study needs its budgets, and not half a second of imports.
    from optuna.distributions import BaseDistribution
    from optuna.trial import Trial

AnySpace = FloatSpace | IntSpace | CategoricalSpace


def sample(trial: Trial, arm: ArmConfig) -> dict[str, Scalar]:
    """Sample the arm's parameters by ``trial``, conditions first.

    Asking a trial again that was interrupted here gives the same values: those it has are kept, and
    the sampler draws the rest from the same seed.
    """
    return _walk(arm, lambda name, space: _suggest(trial, name, space))


def grid(arm: ArmConfig, given: Iterable[Mapping[str, Scalar]] = ()) -> list[dict[str, Scalar]]:
    """Return every distinct combination of the arm's values, dead parameters left out.

    Combinations that are ``given`` come first.
    """
    found = {settings_key(settings): dict(settings) for settings in given}
    names = _in_order(arm)
    for values in itertools.product(*(arm.search[name].grid() or [] for name in names)):
        chosen = dict(zip(names, values, strict=True))
        live = _walk(arm, lambda name, space, chosen=chosen: chosen[name])  # type: ignore[misc]
        found.setdefault(settings_key(live), live)
    return list(found.values())


def left_open(arm: ArmConfig, given: Mapping[str, Scalar]) -> list[str]:
    """Return the searched settings that are not ``given`` and have an effect next to these."""
    return [name for name in arm.search if name not in given and not _is_dead(name, arm, given)]


def settings_key(settings: Mapping[str, Scalar]) -> str:
    """Return a text that identifies settings: True and 1 are equal values, but differ here."""
    return repr(sorted(settings.items()))


def budget(arm: ArmConfig, trials: int, sampler: str) -> int:
    """Return how many trials an arm gets.

    An arm with nothing to search needs one, unless it asks for more; a grid has only so many.
    """
    if not arm.search:
        return arm.trials or 1
    wanted = arm.trials or trials
    return min(wanted, len(grid(arm))) if sampler == "grid" else wanted


def common_space(
    arm: ArmConfig, given: Iterable[Mapping[str, Scalar]] = ()
) -> dict[str, BaseDistribution] | None:
    """Return what all trials of the arm sample, by name; None if that depends on sampled values.

    An end of a continuous range may leave a parameter without effect, but is not sampled; it may be
    one of the ``given`` settings.
    """
    values = list(given)
    for name in DECISIVE:
        if name in arm.search:
            values += [{name: value} for value in arm.search[name].grid() or []]
    if any(_is_dead(other, arm, chosen) for chosen in values for other in arm.search):
        return None
    return {name: _distribution(arm.search[name]) for name in sorted(_walk(arm, lambda *_: None))}


def _walk(arm: ArmConfig, choose: Callable[[str, AnySpace], Scalar]) -> dict[str, Scalar]:
    params: dict[str, Scalar] = {}
    for name in _in_order(arm):
        if not _is_dead(name, arm, params):
            params[name] = choose(name, arm.search[name])
    return params


def _in_order(arm: ArmConfig) -> list[str]:
    """Return the searched names, those that others depend on first; otherwise as written."""
    return sorted(arm.search, key=lambda name: name not in DECISIVE)


def _is_dead(name: str, arm: ArmConfig, params: Mapping[str, Scalar]) -> bool:
    """Return True if ``name`` can have no effect, given what was sampled before it."""
    return is_dead(arm.method, name, {**arm.settings, **params})


def _distribution(space: AnySpace) -> BaseDistribution:
    from optuna import distributions

    if isinstance(space, FloatSpace):
        return distributions.FloatDistribution(space.low, space.high, space.log, space.step)
    if isinstance(space, IntSpace):
        return distributions.IntDistribution(space.low, space.high, space.log, space.step)
    return distributions.CategoricalDistribution(space.choices)


def _suggest(trial: Trial, name: str, space: AnySpace) -> Scalar:
    if isinstance(space, FloatSpace):
        return trial.suggest_float(name, space.low, space.high, log=space.log, step=space.step)
    if isinstance(space, IntSpace):
        return trial.suggest_int(name, space.low, space.high, log=space.log, step=space.step)
    chosen: Scalar = trial.suggest_categorical(name, list(space.choices))
    return chosen
