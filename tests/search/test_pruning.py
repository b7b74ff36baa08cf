"""Pruning through the search's own seam, against real Optuna storages and pruners."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.storages import InMemoryStorage
from optuna.trial import TrialState

from sweeper.config.search import PrunerConfig, SamplerConfig
from sweeper.records import IntermediateScore, Outcome
from sweeper.records.seeds import derive_seed
from sweeper.search.arm_search import ArmSearch
from sweeper.search.storage import open_storage
from tests.support.searches import SEARCH, arm, completed

POINTS = 2
DOCUMENTS = 20


def pruner(kind: str, **changes: Any) -> PrunerConfig:
    return PrunerConfig.model_validate({"type": kind, "startup_trials": 3, **changes})


def make_search(
    storage: Any, config: PrunerConfig, sampler: str = "random", *, higher_is_better: bool = True
) -> ArmSearch:
    return ArmSearch(
        storage,
        "study",
        "gkd",
        arm(SEARCH),
        SamplerConfig.model_validate({"type": sampler, "startup_trials": 2}),
        seed=1,
        higher_is_better=higher_is_better,
        pruner=config,
    )


def quality(number: int) -> float:
    """Of a trial, from 0 to 1, known from its number."""
    return derive_seed(0, "quality", number) / 2**31


def interim(number: int, index: int) -> IntermediateScore:
    """A trial's score at a point: it ranks trials as their final scores do."""
    right = round(quality(number) * DOCUMENTS)
    documents = tuple(float(place < right) for place in range(DOCUMENTS))
    return IntermediateScore(
        index=index, score=quality(number) * (1 + index) / 3, documents=documents
    )


def pruned(last: IntermediateScore) -> Outcome:
    return Outcome(state="pruned", interim=last, started=0.0, finished=1.0)


def run(search: ArmSearch, trials: int) -> dict[int, int]:
    """Run trials to their end; gives the number of points at which each went on."""
    went_on = {}
    for _ in range(trials):
        asked = search.ask()
        found = interim(asked.number, 0)
        went_on[asked.number] = 0
        for index in range(POINTS):
            found = interim(asked.number, index)
            if not search.should_continue(asked.number, found):
                search.tell(asked.number, pruned(found))
                break
            went_on[asked.number] += 1
        else:
            search.tell(asked.number, completed(quality(asked.number)))
    return went_on


@pytest.mark.parametrize("kind", ["median", "asha", "hyperband", "wilcoxon"])
def test_good_trials_go_on_and_bad_ones_are_pruned(kind: str) -> None:
    storage = InMemoryStorage()
    went_on = run(make_search(storage, pruner(kind)), 24)
    best = max(went_on, key=quality)
    assert went_on[best] == POINTS
    assert all(went_on[number] == POINTS for number in range(3))
    ended_early = [number for number, points in went_on.items() if points < POINTS]
    assert len(ended_early) >= 3
    kept = [number for number in went_on if number not in ended_early]
    mean = {
        name: sum(map(quality, group)) / len(group)
        for name, group in (("early", ended_early), ("kept", kept))
    }
    assert mean["early"] < mean["kept"]
    study = optuna.load_study(study_name="study/gkd", storage=storage)
    for trial in study.trials:
        early = trial.number in ended_early
        assert trial.state == (TrialState.PRUNED if early else TrialState.COMPLETE)
        if early:
            # What samplers rank a pruned trial by is its aggregate, not a single document.
            assert trial.value == interim(trial.number, went_on[trial.number]).score
    assert study.best_trial.number == best


def test_without_a_pruner_everything_goes_on() -> None:
    search = make_search(InMemoryStorage(), pruner("none"))
    assert set(run(search, 12).values()) == {POINTS}
    assert pruner("none").points() == ()


@pytest.mark.parametrize("kind", ["median", "asha", "hyperband", "wilcoxon"])
def test_where_lower_is_better_low_trials_go_on(kind: str) -> None:
    storage = InMemoryStorage()
    search = make_search(storage, pruner(kind), higher_is_better=False)
    went_on = run(search, 24)
    assert went_on[min(went_on, key=quality)] == POINTS
    assert went_on[max(range(3, 24), key=quality)] < POINTS


PRUNERS = ("median", "asha", "hyperband", "wilcoxon")


class Killed(BaseException):
    """The process ends here."""


@pytest.mark.parametrize(
    "kind",
    [
        "median",
        *(pytest.param(k, marks=pytest.mark.soak) for k in ("asha", "hyperband", "wilcoxon")),
    ],
)
@pytest.mark.parametrize(
    "writes",
    [1, *(pytest.param(writes, marks=pytest.mark.soak) for writes in (0, 2, 22))],
)
def test_a_decision_that_a_kill_interrupts_is_made_as_it_would_have_been(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, writes: int
) -> None:
    whole = run(make_search(open_storage(tmp_path / "whole.db"), pruner(kind)), 6)

    database = tmp_path / "killed.db"
    went_on = {}
    for number in range(6):
        make_search(open_storage(database), pruner(kind)).ask()
        went_on[number] = 0
        for index in range(POINTS):
            left = iter(range(writes))
            real = optuna.storages.RDBStorage.set_trial_user_attr
            reported = optuna.storages.RDBStorage.set_trial_intermediate_value

            def counted(call: Any, left: Any = left) -> Any:
                def write(*arguments: Any, **named: Any) -> None:
                    if next(left, None) is None:
                        raise Killed
                    call(*arguments, **named)

                return write

            with monkeypatch.context() as patched:
                for name, call in (
                    ("set_trial_user_attr", real),
                    ("set_trial_intermediate_value", reported),
                ):
                    patched.setattr(optuna.storages.RDBStorage, name, counted(call))
                try:
                    search = make_search(open_storage(database), pruner(kind))
                    search.should_continue(number, interim(number, index))
                except Killed:
                    pass
            search = make_search(open_storage(database), pruner(kind))
            first = search.should_continue(number, interim(number, index))
            assert first is search.should_continue(number, interim(number, index))
            if not first:
                search.tell(number, pruned(interim(number, index)))
                break
            went_on[number] += 1
        else:
            search.tell(number, completed(quality(number)))
    assert went_on == whole


def test_the_gp_learns_from_pruned_trials_and_does_not_take_one_for_the_best() -> None:
    storage = InMemoryStorage()
    search = make_search(storage, pruner("median"), "gp")
    went_on = run(search, 8)
    early = [number for number, points in went_on.items() if points < POINTS]
    assert early
    study = optuna.load_study(study_name="study/gkd", storage=storage)
    assert {trial.state for trial in study.trials} == {TrialState.COMPLETE}
    asked = search.ask()
    # A score in the middle of a training is no final one, however good it looks.
    search.tell(asked.number, pruned(IntermediateScore(index=0, score=5.0, documents=())))
    assert study.trials[asked.number].value == max(
        trial.value for trial in study.trials if trial.number not in (*early, asked.number)
    )


def test_a_trial_that_ended_and_runs_again_is_not_pruned() -> None:
    """Its files were damaged; Optuna's record of it stands."""
    search = make_search(InMemoryStorage(), pruner("median", startup_trials=0))
    asked = search.ask()
    search.tell(asked.number, completed(0.5))
    assert search.should_continue(asked.number, interim(asked.number, 0))
