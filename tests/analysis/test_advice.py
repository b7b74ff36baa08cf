"""Common advice, tested on a study's trials."""

from __future__ import annotations

import random

import pytest

from sweeper.analysis.advice import Advice, Topic, advice
from sweeper.analysis.learning_curves import learning_curves
from sweeper.records.study_record import StudyRecord
from tests.support.example_study import arm, completed, failed, study, trial
from tests.support.practice_examples import falling, final, sampled, with_best_lmbda


def advised(record: StudyRecord) -> dict[Topic, Advice]:
    return {one.topic: one for one in advice(record)}


def test_a_best_region_confirms_advice_and_contradicts_other() -> None:
    middle = advised(with_best_lmbda(0.5))
    assert middle["balanced_lmbda"].judgement == "confirmed"
    high = advised(with_best_lmbda(0.75))
    assert high["more_on_policy"].judgement == "confirmed"
    low = advised(with_best_lmbda(0.05))
    assert low["more_on_policy"].judgement == "contradicted"
    assert (low["more_on_policy"].following, low["more_on_policy"].others) == (8, 24)
    # Nobody varied these.
    assert {low[topic].judgement for topic in ("balanced_beta", "temperature", "no_dropout")} == {
        "untested"
    }


def test_where_lower_is_better_the_same_is_confirmed() -> None:
    found = advised(with_best_lmbda(0.5, higher_is_better=False))
    assert found["balanced_lmbda"].judgement == "confirmed"


def test_few_trials_and_equal_scores_tell_nothing() -> None:
    few = [trial(n, completed(0.5 + n / 10), lmbda=0.5 if n else 0.0) for n in range(4)]
    same = [trial(n, completed(0.5), lmbda=n / 20) for n in range(20)]
    for trials, judgement in ((few, "untested"), (same, "unclear")):
        found = advised(study([arm("gkd", trials)]))
        assert found["balanced_lmbda"].judgement == judgement
    assert advised(study([arm("sft", [trial(0, completed(0.5))])])) == {}


@pytest.mark.slow
def test_chance_seldom_confirms_anything() -> None:
    told = 0
    for seed in range(15):
        rng = random.Random(seed)
        trials = [
            trial(
                n,
                completed(rng.random()),
                lmbda=rng.random(),
                beta=rng.choice([0.0, 0.5, 1.0]),
                temperature=rng.uniform(0.3, 1.0),
            )
            for n in range(20)
        ]
        found = advised(study([arm("gkd", trials)], teacher=None))
        told += any(one.judgement in ("confirmed", "contradicted") for one in found.values())
    assert told <= 3


def test_diverged_trials_speak_for_a_lower_learning_rate() -> None:
    trials = [trial(n, completed(0.5), learning_rate=1e-4 * (n + 1)) for n in range(8)]
    trials += [trial(8 + n, failed("diverged"), learning_rate=1e-2 * (n + 1)) for n in range(5)]
    found = advised(study([arm("gkd", trials)]))
    assert found["lower_learning_rate"].judgement == "confirmed"
    assert found["smaller_batch"].judgement == "untested"


def test_shorter_rollouts_are_faster_where_they_were() -> None:
    trials = [
        sampled(n, 0.5, lmbda=0.5, length=limit - 5.0 + n / 10, max_new_tokens=limit)
        for n, limit in enumerate([32, 64] * 6)
    ]
    assert advised(study([arm("gkd", trials)]))["shorter_rollouts"].judgement == "confirmed"


def test_gkd_costs_more_than_offline_training_where_it_did() -> None:
    def record(gkd: float, offline: float) -> StudyRecord:
        ours = [trial(n, completed(0.5, seconds=gkd + n)) for n in range(5)]
        theirs = [trial(n, completed(0.5, seconds=offline + n)) for n in range(5)]
        return study([arm("gkd", ours), arm("sft", theirs)])

    assert advised(record(40, 10))["gkd_costs_more"].judgement == "confirmed"
    assert advised(record(10, 40))["gkd_costs_more"].judgement == "contradicted"


def test_p_is_that_of_scipy_after_holm() -> None:
    trials = [
        trial(n, completed(0.5 + n / 100 + (0.3 if n % 2 else 0)), lmbda=0.5 if n % 2 else 0.1)
        for n in range(8)
    ]
    found = advised(study([arm("gkd", trials)]))
    # All of four are better than all of four others: two orders of the 70.
    assert found["balanced_lmbda"].p == pytest.approx(2 / 70)
    tested = [one for one in found.values() if one.p is not None]
    assert found["balanced_lmbda"].p_adjusted == pytest.approx(min(len(tested) * 2 / 70, 1))
    # Equal values: of 70 ways to deal them out two are as extreme.
    tied = [
        trial(n, completed(0.1 if n < 4 else 0.2), lmbda=0.5 if n < 4 else 0.1) for n in range(8)
    ]
    assert advised(study([arm("gkd", tied)]))["balanced_lmbda"].p == pytest.approx(2 / 70)


def test_more_steps_are_tested_where_they_were_searched() -> None:
    trials = [
        trial(n, completed(0.3 + steps / 1000 + n / 10_000), max_steps=steps)
        for n, steps in enumerate([50, 100, 200] * 5)
    ]
    found = advised(study([arm("gkd", trials)]))["longer_training"]
    assert (found.judgement, found.following, found.others) == ("confirmed", 5, 10)


def test_curves_are_means_over_seeds_by_the_yardstick_or_else_by_loss() -> None:
    bare = arm("gkd", [trial(0, completed(0.5))])
    gkd = bare.model_copy(update={"finals": falling("gkd", 2, 0.05)})
    [curve] = learning_curves(study([gkd]), None)
    assert curve.measure == "teacher_divergence"
    last = curve.steps[-1]
    assert (last.step, last.low, last.high, last.seeds) == (60, 0.05, pytest.approx(0.051), 2)
    losses = bare.model_copy(
        update={"finals": (final("gkd", 0, [(5, 2.0, None), (9, 1.0, None)]),)}
    )
    [curve] = learning_curves(study([losses]), None)
    assert (curve.measure, [step.mean for step in curve.steps]) == ("loss", [2.0, 1.0])
    assert learning_curves(study([bare]), None) == ()
