"""A search that starts with given settings, against real Optuna storages."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.storages import BaseStorage, InMemoryStorage
from optuna.trial import TrialState

from sweeper.config.base import Scalar
from sweeper.config.search import SamplerConfig
from sweeper.records import EnqueuedSettings
from sweeper.search.arm_search import ArmSearch, Asked
from sweeper.search.sampling import grid
from sweeper.search.storage import open_storage
from tests.support.searches import SEARCH, arm, completed

WHOLE: dict[str, Scalar] = {
    "lmbda": 0.5, "beta": 0.5, "temperature": 0.75, "max_new_tokens": 16, "learning_rate": 5e-4,
}  # fmt: skip
PART: dict[str, Scalar] = {"lmbda": 1.0, "beta": 0.0}
DEAD: dict[str, Scalar] = {"lmbda": 0.0, "learning_rate": 1e-3}
GIVEN = (
    EnqueuedSettings(settings=WHOLE),
    EnqueuedSettings(settings=PART, study="pilot", arm="gkd", trial=7, score=0.5),
    EnqueuedSettings(settings=DEAD),
)
GRID = {name: space for name, space in SEARCH.items() if name != "learning_rate"}
TRIALS = 8


def make_search(
    storage: BaseStorage,
    kind: str,
    space: dict[str, Any] = SEARCH,
    given: tuple[EnqueuedSettings, ...] = GIVEN,
) -> ArmSearch:
    sampler = SamplerConfig.model_validate({"type": kind, "startup_trials": 3})
    return ArmSearch(
        storage, "study", "gkd", arm(space), sampler, seed=5, higher_is_better=True,
        start_with=given,
    )  # fmt: skip


def run(search: ArmSearch, trials: int = TRIALS) -> list[Asked]:
    asked = []
    for _ in range(trials):
        asked.append(search.ask())
        search.tell(asked[-1].number, completed(float(asked[-1].params["lmbda"] or 0)))
    return asked


@pytest.mark.parametrize("kind", ["tpe", "random", "gp"])
def test_given_settings_are_the_first_trials_and_the_sampler_chooses_the_rest(kind: str) -> None:
    storage = InMemoryStorage()
    asked = run(make_search(storage, kind))
    assert [trial.enqueued for trial in asked] == [*GIVEN, *[None] * (TRIALS - 3)]
    assert asked[0].params == WHOLE
    assert asked[1].params.keys() == SEARCH.keys() and asked[1].params.items() >= PART.items()
    assert asked[2].params.keys() == {"lmbda", "beta", "learning_rate"}
    assert asked[2].params.items() >= DEAD.items()
    assert len({str(trial.params) for trial in asked[3:]}) > 1
    trials = storage.get_all_trials(0)
    assert [trial.state for trial in trials] == [TrialState.COMPLETE] * TRIALS
    sources = [trial.user_attrs.get("sweeper:start_with") for trial in trials]
    assert sources == ["the study file", "pilot gkd #7", "the study file", *[None] * (TRIALS - 3)]


@pytest.mark.parametrize("kind", ["tpe", "random"])
def test_a_search_that_is_killed_at_any_point_enqueues_nothing_twice(
    tmp_path: Path, kind: str
) -> None:
    expected = run(make_search(InMemoryStorage(), kind), 5)
    database = tmp_path / "study.db"
    for number in range(5):
        search = make_search(open_storage(database), kind)
        if number < len(GIVEN):
            # Killed between queueing and asking: the next process finds it and queues no other.
            search._study.enqueue_trial(GIVEN[number].settings)
            search = make_search(open_storage(database), kind)
            assert number not in search.asked()
        assert search.ask() == expected[number]
        # Killed before the trial's spec was written.
        reopened = make_search(open_storage(database), kind)
        assert reopened.resume(number) == expected[number]
        reopened.tell(number, completed(float(expected[number].params["lmbda"] or 0)))
    stored = optuna.load_study(study_name="study/gkd", storage=f"sqlite:///{database}").trials
    assert [trial.params for trial in stored] == [asked.params for asked in expected]
    assert sum("fixed_params" in trial.system_attrs for trial in stored) == len(GIVEN)


def test_workers_that_ask_before_anything_is_told_share_out_the_given_settings() -> None:
    search = make_search(InMemoryStorage(), "tpe")
    asked = [search.ask() for _ in range(5)]
    assert [trial.enqueued for trial in asked] == [*GIVEN, None, None]


def test_a_grid_begins_with_the_given_combinations_and_repeats_none() -> None:
    combinations = grid(arm(GRID))
    given = [combinations[9], combinations[2]]
    search = make_search(
        InMemoryStorage(), "grid", GRID, tuple(EnqueuedSettings(settings=s) for s in given)
    )
    asked = [trial.params for trial in run(search, len(combinations))]
    assert asked[:2] == given
    assert asked[2:] == [c for c in combinations if c not in given]


def test_an_end_of_a_range_that_leaves_others_without_effect_may_be_given() -> None:
    space = SEARCH | {"lmbda": {"type": "float", "low": 0.0, "high": 1.0}}
    asked = run(make_search(InMemoryStorage(), "tpe", space), 12)
    assert asked[2].params.keys() == {"lmbda", "beta", "learning_rate"}
    assert all(trial.params.keys() == space.keys() for trial in asked[3:])
