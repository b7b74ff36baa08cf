"""Asking and telling, against real Optuna storages."""

from __future__ import annotations

import shutil
import sqlite3
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.storages import BaseStorage, InMemoryStorage
from optuna.trial import TrialState

from sweeper.config.arms import ArmConfig
from sweeper.config.search import SamplerConfig
from sweeper.records import Failure, FailureKind, Outcome
from sweeper.search.arm_search import ArmSearch, Asked
from sweeper.search.sampling import budget, common_space, grid
from sweeper.search.storage import open_storage
from tests.support.searches import SEARCH, arm, completed

SAMPLERS = ("tpe", "random", "grid", "gp")
GRID = {name: space for name, space in SEARCH.items() if name != "learning_rate"}
TRIALS = 9
STARTUP = 3


def sampler(kind: str) -> SamplerConfig:
    return SamplerConfig.model_validate({"type": kind, "startup_trials": STARTUP})


def make_search(
    storage: BaseStorage,
    kind: str,
    *,
    seed: int = 5,
    name: str = "gkd",
    of: ArmConfig | None = None,
    higher_is_better: bool = True,
) -> ArmSearch:
    return ArmSearch(
        storage,
        "study",
        name,
        of or arm(GRID if kind == "grid" else SEARCH),
        sampler(kind),
        seed=seed,
        higher_is_better=higher_is_better,
    )


def open_search(database: Path, kind: str, **options: Any) -> ArmSearch:
    """What a new process opens."""
    return make_search(open_storage(database), kind, **options)


def failed(kind: FailureKind) -> Outcome:
    failure = Failure(kind=kind, message="it broke")
    return Outcome(state="failed", failure=failure, started=0.0, finished=1.0)


def outcome_of(asked: Asked) -> Outcome:
    """What training would say: a function of the parameters, now and then a failure."""
    if asked.number == 4:
        return failed("diverged")
    params = {name: value for name, value in asked.params.items() if isinstance(value, int | float)}
    return completed(params["lmbda"] - (params["beta"] - 0.3) ** 2 + params.get("temperature", 0.6))


def undisturbed(kind: str, *, trials: int = TRIALS, **options: Any) -> list[dict[str, Any]]:
    search = make_search(InMemoryStorage(), kind, **options)
    found = []
    for _ in range(trials):
        asked = search.ask()
        found.append(asked.params)
        search.tell(asked.number, outcome_of(asked))
    return found


def stored(database: Path, name: str = "gkd") -> list[optuna.trial.FrozenTrial]:
    return optuna.load_study(
        study_name=f"study/{name}", storage=f"sqlite:///{database}"
    ).get_trials()


@pytest.mark.parametrize("kind", SAMPLERS)
def test_a_parameter_without_effect_is_not_sampled(kind: str) -> None:
    found = undisturbed(kind, seed=1)
    assert {params["lmbda"] == 0 for params in found} == {True, False}
    for params in found:
        live = {"temperature", "max_new_tokens"} & params.keys()
        assert live == (set() if params["lmbda"] == 0 else {"temperature", "max_new_tokens"})


def test_stored_outputs_are_not_searched_where_every_sequence_is_rolled_out() -> None:
    space = {
        "seq_kd": {"type": "categorical", "choices": [True, False]},
        "lmbda": {"type": "categorical", "choices": [0.5, 1.0]},
    }
    assert grid(arm(space)) == [
        {"lmbda": 0.5, "seq_kd": True},
        {"lmbda": 0.5, "seq_kd": False},
        {"lmbda": 1.0},
    ]


@pytest.mark.parametrize("kind", SAMPLERS)
def test_the_same_seed_gives_the_same_parameters(kind: str) -> None:
    first = undisturbed(kind)
    assert undisturbed(kind) == first
    if kind != "grid":
        assert undisturbed(kind, trials=1, seed=6) != first[:1]
        assert undisturbed(kind, trials=1, name="other") != first[:1]


@pytest.mark.parametrize("kind", SAMPLERS)
def test_values_stay_in_their_space(kind: str) -> None:
    found = undisturbed(kind)
    for params in found:
        assert params["lmbda"] in (0.0, 0.5, 1.0)
        assert params["beta"] in (0.0, 0.5)
        assert params.get("temperature", 0.25) in (0.25, 0.5, 0.75, 1.0)
        assert params.get("max_new_tokens", 8) in (8, 16, 24, 32)
        assert 1e-4 <= params.get("learning_rate", 1e-4) <= 1e-3
    # A seed that was the same for every trial would draw the same again.
    assert len({str(params) for params in found[:STARTUP]}) == STARTUP


@pytest.mark.parametrize(
    "kind", [pytest.param(k, marks=[pytest.mark.soak] * (k == "gp")) for k in SAMPLERS]
)
def test_a_search_reopened_for_every_trial_goes_on_as_if_undisturbed(
    tmp_path: Path, kind: str
) -> None:
    expected = undisturbed(kind)
    database = tmp_path / "study.db"
    found = []
    for number in range(6):
        asked = open_search(database, kind).ask()
        assert asked.number == number
        # The process ends here; the next one finds a trial without an outcome.
        reopened = open_search(database, kind)
        assert reopened.asked()[number] == TrialState.RUNNING
        assert reopened.resume(number) == asked
        open_search(database, kind).tell(number, outcome_of(asked))
        found.append(asked.params)
    assert found == expected[:6]


def cut(database: Path, number: int, keep: int) -> None:
    """Make the database what a process leaves that dies after it stored ``keep`` parameters."""
    with sqlite3.connect(database) as connection:
        (trial,) = connection.execute(
            "select trial_id from trials where number = ?", (number,)
        ).fetchone()
        connection.execute(
            "delete from trial_params where param_id in (select param_id from trial_params"
            " where trial_id = ? order by param_id limit -1 offset ?)",
            (trial, keep),
        )
    connection.close()


@pytest.mark.parametrize(
    ("kind", "number"),
    [
        ("random", 1),
        ("grid", 3),
        ("tpe", 1),
        ("tpe", 6),
        pytest.param("gp", 6, marks=pytest.mark.soak),
    ],
)
def test_a_trial_that_was_interrupted_while_it_was_sampled_gets_the_same_parameters(
    tmp_path: Path, kind: str, number: int
) -> None:
    expected = undisturbed(kind)
    before = tmp_path / "before.db"
    search = open_search(before, kind)
    for _ in range(number):
        asked = search.ask()
        search.tell(asked.number, outcome_of(asked))
    assert search.ask().params == expected[number]
    for keep in range(len(expected[number])):
        database = shutil.copy(before, tmp_path / f"{keep}.db")
        cut(database, number, keep)
        assert len(stored(database)[number].params) == keep
        asked = open_search(database, kind).resume(number)
        assert asked == Asked(number, expected[number])
        assert stored(database)[number].params == expected[number]
        # And the search goes on as if nothing had happened.
        again = open_search(database, kind)
        again.tell(number, outcome_of(asked))
        assert again.ask().params == expected[number + 1]


def test_a_combination_that_was_queued_but_not_started_is_asked_next(tmp_path: Path) -> None:
    database = tmp_path / "study.db"
    open_search(database, "grid").ask()
    combinations = grid(arm(GRID))
    study = optuna.load_study(study_name="study/gkd", storage=f"sqlite:///{database}")
    study.enqueue_trial(combinations[1])  # The process dies between queueing and asking.
    search = open_search(database, "grid")
    assert search.asked() == {0: TrialState.RUNNING}
    assert search.ask() == Asked(1, combinations[1])
    assert search.ask() == Asked(2, combinations[2])


def test_the_grid_is_every_combination_once() -> None:
    combinations = grid(arm(GRID))
    # lmbda 0: 2 betas; lmbda 0.5 and 1: 2 betas, 4 temperatures and 4 lengths each.
    assert len(combinations) == 2 + 2 * (2 * 4 * 4)
    assert len({str(sorted(params.items())) for params in combinations}) == len(combinations)
    assert budget(arm(GRID), 100, "grid") == len(combinations)
    assert budget(arm(GRID), 5, "grid") == 5
    search = make_search(InMemoryStorage(), "grid")
    found = []
    for _ in range(budget(arm(GRID), 100, "grid")):
        asked = search.ask()
        found.append(asked.params)
        search.tell(asked.number, outcome_of(asked))
    assert found == combinations


def test_a_grid_with_inexact_steps_is_sampled_without_a_warning() -> None:
    space = {"temperature": {"type": "float", "low": 0.1, "high": 0.3, "step": 0.1}}
    search = make_search(InMemoryStorage(), "grid", of=arm(space))
    assert [search.ask().params for _ in range(3)] == [
        {"temperature": 0.1}, {"temperature": 0.2}, {"temperature": 0.3},
    ]  # fmt: skip


def test_an_arm_without_a_search_is_one_trial() -> None:
    assert budget(arm(), 100, "tpe") == budget(arm(), 100, "grid") == 1
    assert grid(arm()) == [{}]
    for kind in SAMPLERS:
        storage = InMemoryStorage()
        assert make_search(storage, kind, of=arm()).ask() == Asked(0, {})
        assert make_search(storage, kind, of=arm()).resume(0) == Asked(0, {})


def test_an_arm_may_have_its_own_budget() -> None:
    own = ArmConfig.model_validate({"method": "gkd", "trials": 7, "search": SEARCH})
    assert budget(own, 100, "tpe") == 7
    assert budget(arm(SEARCH), 100, "tpe") == 100


def test_telling_again_changes_nothing(tmp_path: Path) -> None:
    database = tmp_path / "study.db"
    search = open_search(database, "tpe")
    done, broken = search.ask(), search.ask()
    search.tell(done.number, completed(0.5))
    search.tell(broken.number, failed("out_of_memory"))
    before = stored(database)
    open_search(database, "tpe").tell(done.number, completed(0.9))
    open_search(database, "tpe").tell(done.number, failed("bug"))
    open_search(database, "tpe").tell(broken.number, completed(0.9))
    assert stored(database) == before
    assert [trial.state for trial in before] == [TrialState.COMPLETE, TrialState.PRUNED]
    assert before[0].value == 0.5


def test_a_failure_is_recorded_with_its_kind(tmp_path: Path) -> None:
    database = tmp_path / "study.db"
    search = open_search(database, "tpe")
    kinds: tuple[FailureKind, ...] = ("out_of_memory", "diverged", "lost", "timeout", "bug")
    for kind in kinds:
        search.tell(search.ask().number, failed(kind))
    trials = stored(database)
    avoided, others = TrialState.PRUNED, TrialState.FAIL
    assert [trial.state for trial in trials] == [avoided, avoided, others, avoided, others]
    assert [trial.user_attrs["sweeper:failure"] for trial in trials] == list(kinds)


@pytest.mark.soak
@pytest.mark.parametrize("kind", ["tpe", "gp"])
def test_the_sampler_learns_to_keep_away_from_what_fails(tmp_path: Path, kind: str) -> None:
    """Half of the range runs out of memory, and beside it lie the best scores."""
    space = {"learning_rate": {"type": "float", "low": 0.01, "high": 1.0}}
    broken = 0
    for seed in range(3):
        database = tmp_path / f"{seed}.db"
        for number in range(30):
            search = open_search(database, kind, seed=seed, of=arm(space))
            rate = search.ask().params["learning_rate"]
            assert isinstance(rate, float)
            fails = rate > 0.5
            broken += fails and number >= 15
            search.tell(number, failed("out_of_memory") if fails else completed(rate))
    # A sampler that never hears of these follows the scores: nearly all of the last 15.
    assert broken / 45 < 0.6


def test_a_placeholder_is_the_worst_score_so_far() -> None:
    storage = InMemoryStorage()
    search = make_search(storage, "gp")
    for outcome in (completed(0.5), completed(0.25), failed("diverged")):
        search.tell(search.ask().number, outcome)
    values = [trial.value for trial in storage.get_all_trials(0)]
    assert values == [0.5, 0.25, 0.25]


@pytest.mark.parametrize(("higher_is_better", "best"), [(True, 1), (False, 0)])
def test_the_direction_is_that_of_the_score(higher_is_better: bool, best: int) -> None:
    storage = InMemoryStorage()
    search = make_search(storage, "tpe", higher_is_better=higher_is_better)
    for score in (0.25, 0.75):
        outcome = completed(score, higher_is_better=higher_is_better)
        search.tell(search.ask().number, outcome)
    assert optuna.load_study(study_name="study/gkd", storage=storage).best_trial.number == best


@pytest.mark.parametrize(("kind", "trials"), [("tpe", 40), ("gp", 10)])
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_the_search_learns(kind: str, trials: int, sign: float) -> None:
    def mean_distance(kind: str) -> float:
        space = {"beta": {"type": "float", "low": 0.0, "high": 1.0}}
        up = sign > 0
        search = make_search(InMemoryStorage(), kind, of=arm(space), higher_is_better=up)
        distances = []
        for _ in range(trials):
            asked = search.ask()
            beta = asked.params["beta"]
            assert isinstance(beta, float)
            distances.append(abs(beta - 0.8))
            search.tell(asked.number, completed(-sign * distances[-1], higher_is_better=up))
        return sum(distances[trials // 2 :])

    assert mean_distance(kind) < 0.5 * mean_distance("random")


@pytest.mark.parametrize("kind", SAMPLERS)
def test_several_workers_ask_before_anything_is_told(kind: str) -> None:
    search = make_search(InMemoryStorage(), kind)
    asked = [search.ask() for _ in range(4)]
    for one in reversed(asked):
        search.tell(one.number, outcome_of(one))
    more = [search.ask() for _ in range(3)]
    assert [one.number for one in (*asked, *more)] == list(range(7))
    assert len({str(one.params) for one in (*asked, *more)}) == 7


def test_arms_share_a_database_without_disturbing_each_other() -> None:
    storage = InMemoryStorage()
    first, second = make_search(storage, "tpe"), make_search(storage, "tpe", name="other")
    found = []
    for _ in range(TRIALS):
        other = second.ask()
        asked = first.ask()
        second.tell(other.number, completed(0.1))
        first.tell(asked.number, outcome_of(asked))
        found.append(asked.params)
    assert found == undisturbed("tpe")


def test_no_sampler_warns_the_user(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    open_search(tmp_path / "study.db", "tpe")
    optuna.logging.enable_propagation()
    try:
        for kind in SAMPLERS:
            undisturbed(kind, trials=6)
    finally:
        optuna.logging.disable_propagation()
    assert [record.getMessage() for record in caplog.records] == []


LMBDA: dict[str, Any] = {"type": "float", "low": 0.0, "high": 1.0}


@pytest.mark.parametrize(
    ("lmbda", "depends"),
    [
        (SEARCH["lmbda"], True),  # at 0 nothing is sampled from the student
        (LMBDA | {"step": 0.5}, True),
        (LMBDA, False),
        ({"type": "categorical", "choices": [0.25, 0.5]}, False),
    ],
)
def test_what_all_trials_sample(lmbda: dict[str, Any], depends: bool) -> None:
    space = common_space(arm(SEARCH | {"lmbda": lmbda}))
    assert space is None if depends else space is not None and set(space) == set(SEARCH)


def test_a_space_that_is_known_is_sampled_as_the_one_that_is_inferred(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    of = arm(SEARCH | {"lmbda": LMBDA})

    def sampled() -> list[Asked]:
        search = make_search(InMemoryStorage(), "tpe", of=of)
        found = []
        for _ in range(3 * STARTUP):
            found.append(search.ask())
            search.tell(found[-1].number, completed(float(found[-1].params["lmbda"] or 0)))
        return found

    known = sampled()
    monkeypatch.setattr("sweeper.search.arm_search.common_space", lambda *_: None)
    assert sampled() == known
