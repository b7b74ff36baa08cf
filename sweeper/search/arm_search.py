"""One arm's Optuna study, asked and told by the coordinator alone."""

from __future__ import annotations

import itertools
import json
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, GPSampler, RandomSampler, TPESampler
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, Trial, TrialState

from sweeper.config.arms import ArmConfig
from sweeper.config.base import Scalar
from sweeper.config.search import Objective, PrunerConfig, SamplerConfig
from sweeper.foundation.database_retry import Retry, retried
from sweeper.records import EnqueuedSettings, FailureKind, IntermediateScore, Outcome
from sweeper.records.seeds import sampler_seed
from sweeper.search.pruning import make_pruner, rungs, values_by_step, with_rungs
from sweeper.search.sampling import common_space, grid, sample

_FAILURE = "sweeper:failure"
_PRUNED = "sweeper:pruned"
_FEASIBLE = "sweeper:feasible"
_START = "sweeper:start_with"
_RUNGS = "sweeper:rungs"
_DECISION = "sweeper:verdict"
_AVOIDED: frozenset[FailureKind] = frozenset({"out_of_memory", "diverged", "timeout"})
"""Failures that the parameters are to blame for: the sampler learns to keep away from these."""


@dataclass(frozen=True)
class Asked:
    """A trial to run: its number in the arm and its parameters."""

    number: int
    params: dict[str, Scalar]
    enqueued: EnqueuedSettings | None = None
    """Settings that were given for it, if any were."""


class ArmSearch:
    """Asks Optuna for an arm's trials and tells it how they ended.

    The sampler is seeded anew for every trial from the study's seed, the arm and the trial's
    number, so an interrupted search resumes as if it had not been. The first trials have the
    settings that ``start_with`` gives, one trial each; what they leave open is sampled. One process
    owns the database; nothing here is safe to share.
    """

    def __init__(
        self,
        storage: optuna.storages.BaseStorage,
        study: str,
        arm_name: str,
        arm: ArmConfig,
        sampler: SamplerConfig,
        *,
        seed: int,
        higher_is_better: bool,
        pruner: PrunerConfig | None = None,
        objectives: Sequence[Objective] = ("score",),
        start_with: Sequence[EnqueuedSettings] = (),
        retry: Retry | None = None,
    ) -> None:
        self._arm_name = arm_name
        self._arm = arm
        self._sampler = sampler
        self._pruner = pruner or PrunerConfig()
        self._objectives = objectives
        self._start_with = start_with
        given = [enqueued.settings for enqueued in start_with]
        self._space = common_space(arm, given)
        self._planned = grid(arm, given) if sampler.type == "grid" else given
        """What is enqueued for the first trials, by number."""
        self._seed = seed
        upwards = {"score": higher_is_better}
        self._retry = retry or Retry()
        self._study = self._retry(
            lambda: optuna.create_study(
                storage=storage,
                study_name=f"{study}/{arm_name}",
                pruner=make_pruner(self._pruner),
                directions=["maximize" if upwards.get(name) else "minimize" for name in objectives],
                load_if_exists=True,
            )
        )

    @retried
    def asked(self) -> dict[int, TrialState]:
        """Return the trials that were asked for, by number, with Optuna's state."""
        return {
            trial.number: trial.state
            for trial in self._trials()
            if trial.state != TrialState.WAITING
        }

    def ask(self) -> Asked:
        """Return a new trial, or the one that an interrupted ``ask`` left without a spec.

        The caller writes the trial's spec before it asks again.
        """
        return self._ask(self._next_number())

    @retried
    def _next_number(self) -> int:
        trials = self._trials()
        return len(trials) - any(trial.state == TrialState.WAITING for trial in trials)

    @retried
    def _ask(self, number: int) -> Asked:
        trials = self._trials()
        waiting = number < len(trials)
        if waiting and trials[number].state != TrialState.WAITING:
            # The database went away after it had stored the trial and before it said so.
            return self.resume(number)
        self._study.sampler = self._make_sampler(number)
        enqueued = self._enqueued(number)
        # Only when its turn comes, so that a trial that waits is the next one and the only one.
        if number < len(self._planned) and not waiting:
            source = {_START: enqueued.source()} if enqueued else None
            self._study.enqueue_trial(self._planned[number], source)
        trial = self._study.ask()
        return Asked(trial.number, sample(trial, self._arm), enqueued)

    @retried
    def resume(self, number: int) -> Asked:
        """Return the parameters of a trial that exists; sample what an interruption left out."""
        frozen = self._trials()[number]
        if frozen.state.is_finished():  # its files were damaged, but what was sampled is known
            return Asked(number, dict(frozen.params), self._enqueued(number))
        self._study.sampler = self._make_sampler(number)
        trial = Trial(self._study, frozen._trial_id)
        return Asked(number, sample(trial, self._arm), self._enqueued(number))

    @retried
    def should_continue(self, number: int, interim: IntermediateScore) -> bool:
        """Decide if a trial continues that was scored in the middle of its training.

        Asking the same again gives the same answer, also after this process was killed.
        """
        frozen = self._trials()[number]
        decision = f"{_DECISION}:{interim.index}"
        if decision in frozen.user_attrs:
            return bool(frozen.user_attrs[decision])
        if frozen.state.is_finished():  # its files were damaged, and it runs again
            return True
        trial = Trial(self._study, frozen._trial_id)
        before = f"{_RUNGS}:{interim.index}"
        if before not in frozen.user_attrs:
            trial.set_user_attr(before, rungs(frozen))
        for step, value in values_by_step(self._pruner, interim).items():
            if step not in frozen.intermediate_values:
                trial.report(value, step)
        trials = self._trials()
        reported = trials[number]
        pruned = self._study.pruner.prune(
            self._study, with_rungs(reported, reported.user_attrs[before])
        )
        completed = sum(trial.state == TrialState.COMPLETE for trial in trials)
        should_continue = not pruned or completed < self._pruner.startup_trials
        trial.set_user_attr(decision, should_continue)
        return should_continue

    @retried
    def tell(self, number: int, outcome: Outcome) -> None:
        """Record how a trial ended; telling the same again changes nothing.

        A failure that the parameters are to blame for violates a constraint, which every trial has:
        Optuna's samplers do not look at trials that FAILed. TPE learns from PRUNED ones; the GP
        reads COMPLETE ones only, so there such a trial has the worst values so far as a
        placeholder. In the same way a trial that was pruned is COMPLETE with its last score for the
        GP, or the best one's if it should be above that.
        """
        frozen = self._trials()[number]
        if frozen.state.is_finished():
            return
        trial = Trial(self._study, frozen._trial_id)
        failure = outcome.failure
        avoided = failure is not None and failure.kind in _AVOIDED
        with warnings.catch_warnings():
            # An interrupted telling may have set it.
            warnings.simplefilter("ignore")
            trial.set_constraint(_FEASIBLE, 1.0 if avoided else 0.0)
        if outcome.state == "completed" and outcome.scores is not None:
            self._study.tell(number, [_value(name, outcome) for name in self._objectives])
            return
        if failure is not None:
            trial.set_user_attr(_FAILURE, failure.kind)
        elif outcome.interim is not None:
            trial.set_user_attr(_PRUNED, True)
        if failure is not None and not avoided:
            self._study.tell(number, state=TrialState.FAIL)
        elif self._sampler.type != "gp":
            self._study.tell(number, state=TrialState.PRUNED)
        elif outcome.interim is not None:
            self._study.tell(number, self._no_better_than_best(outcome.interim.score))
        else:
            self._study.tell(number, [self._worst(i) for i in range(len(self._objectives))])

    def _no_better_than_best(self, score: float) -> float:
        values = [t.value for t in self._trials() if t.value is not None]
        if self._upwards(0):
            return min(score, max(values, default=score))
        return max(score, min(values, default=score))

    def _worst(self, objective: int) -> float:
        values = [t.values[objective] for t in self._trials() if t.values is not None]
        return (min if self._upwards(objective) else max)(values, default=0.0)

    def _upwards(self, objective: int) -> bool:
        return self._study.directions[objective] == StudyDirection.MAXIMIZE

    def _enqueued(self, number: int) -> EnqueuedSettings | None:
        return self._start_with[number] if number < len(self._start_with) else None

    def _trials(self) -> list[FrozenTrial]:
        return self._study.get_trials(deepcopy=False)

    def _make_sampler(self, number: int) -> BaseSampler:
        def make(purpose: str) -> BaseSampler:
            seed = sampler_seed(self._seed, self._arm_name, number, purpose)
            return _make_sampler(self._sampler, seed, group=self._space is None)

        return _RepeatableSampler(make, self._space if self._sampler.type == "tpe" else None)


class _RepeatableSampler(BaseSampler):
    """Gives a trial the same parameters, wherever its sampling was interrupted before.

    Optuna's samplers draw one value after another from one generator, so a trial that was left half
    sampled would get other values. Here every parameter has a generator of its own, and what
    was sampled jointly is read back.

    Args:
        make: Makes the sampler of one purpose: a parameter's name, or ``""`` for all jointly.
        space: Parameters that are sampled jointly, if known: to infer them from thousands of trials
            takes a quarter of the time that it takes to sample.
    """

    def __init__(
        self, make: Callable[[str], BaseSampler], space: dict[str, BaseDistribution] | None
    ) -> None:
        self._make = make
        self._joint = make("")
        self._space = space

    def infer_relative_search_space(
        self, study: optuna.Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        if self._space is not None:
            return {name: space for name, space in self._space.items() if not space.single()}
        return self._joint.infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        kept = _jointly_sampled(trial)
        if kept and search_space.keys() <= kept.keys():
            return {name: kept[name] for name in search_space}
        with warnings.catch_warnings():
            # The GP divides by zero once its search has converged, and handles that.
            warnings.simplefilter("ignore", RuntimeWarning)
            return self._joint.sample_relative(study, trial, search_space)

    def sample_independent(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        sampler = self._make(param_name)
        return sampler.sample_independent(study, trial, param_name, param_distribution)


def _jointly_sampled(trial: FrozenTrial) -> dict[str, Any]:
    """Return what TPE or the GP sampled for ``trial``, which keeps it in chunks."""
    text = ""
    for sampler in ("tpe", "gp"):
        for index in itertools.count():
            chunk = trial.system_attrs.get(f"{sampler}:relative_params:{index}")
            if chunk is None:
                break
            text += chunk
    kept: dict[str, Any] = json.loads(text) if text else {}
    return kept


def _value(objective: Objective, outcome: Outcome) -> float:
    if objective == "score":
        assert outcome.scores is not None
        return outcome.scores.score
    if objective == "model_parameters":
        return float(outcome.model_parameters or 0)
    return float(getattr(outcome.cost, objective))


def _make_sampler(config: SamplerConfig, seed: int, *, group: bool) -> BaseSampler:
    startup = config.startup_trials
    with warnings.catch_warnings():
        # `multivariate`, `group` and `constant_liar` are marked experimental; Optuna's version is
        # pinned, and they are what conditional parameters and workers need.
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        if config.type == "tpe":
            return TPESampler(
                n_startup_trials=startup,
                multivariate=True,
                group=group,
                constant_liar=True,
                seed=seed,
            )
        if config.type == "gp":
            # That conditional parameters are not part of the model needs no warning per trial.
            return GPSampler(n_startup_trials=startup, warn_independent_sampling=False, seed=seed)
        return RandomSampler(seed=seed)
