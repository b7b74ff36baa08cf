"""What a study says of common advice."""

from __future__ import annotations

import random

import pytest

from sweeper.analysis.advice import Advice, Contrast, Topic, advice
from sweeper.analysis.comparison import compare
from sweeper.analysis.learning_curves import learning_curves
from sweeper.analysis.longer_training import LateProgress, LongerTraining
from sweeper.records.study_record import Confirmation, Plan, StudyRecord
from tests.support.confirmation_scores import scores, winner
from tests.support.example_study import arm, completed, failed, study, trial
from tests.support.practice_examples import falling, final, sampled, with_best_lmbda


def advised(record: StudyRecord) -> dict[Topic, Advice]:
    return {one.topic: one for one in advice(record, compare(record), None)}


def test_a_best_region_confirms_advice_and_contradicts_other() -> None:
    middle = advised(with_best_lmbda(0.5))
    assert middle["balanced_lmbda"].judgement == "confirmed"
    high = advised(with_best_lmbda(0.75))
    assert high["more_on_policy"].judgement == "confirmed"
    low = advised(with_best_lmbda(0.05))
    assert low["more_on_policy"].judgement == "contradicted"
    evidence = low["more_on_policy"].evidence
    assert isinstance(evidence, Contrast)
    assert (evidence.following, evidence.others) == (8, 24)
    # Nobody varied these.
    assert {low[topic].judgement for topic in ("balanced_beta", "temperature", "no_dropout")} == {
        "untold"
    }


def test_where_lower_is_better_the_same_is_confirmed() -> None:
    found = advised(with_best_lmbda(0.5, higher_is_better=False))
    assert found["balanced_lmbda"].judgement == "confirmed"


def test_few_trials_and_equal_scores_tell_nothing() -> None:
    few = [trial(n, completed(0.5 + n / 10), lmbda=0.5 if n else 0.0) for n in range(4)]
    same = [trial(n, completed(0.5), lmbda=n / 20) for n in range(20)]
    for trials in (few, same):
        found = advised(study([arm("gkd", trials)]))
        assert found["balanced_lmbda"].judgement == "untold"
    assert advised(study([arm("sft", [trial(0, completed(0.5))])])) == {}


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
        told += any(one.judgement != "untold" for one in found.values())
    assert told <= 3


def test_diverged_trials_speak_for_a_lower_learning_rate() -> None:
    trials = [trial(n, completed(0.5), learning_rate=1e-4 * (n + 1)) for n in range(8)]
    trials += [trial(8 + n, failed("diverged"), learning_rate=1e-2 * (n + 1)) for n in range(5)]
    found = advised(study([arm("gkd", trials)]))
    assert found["lower_learning_rate"].judgement == "confirmed"
    assert found["smaller_batch"].judgement == "untold"


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


def test_the_teacher_is_measured() -> None:
    trials = [trial(0, completed(0.5))]
    lead = advised(study([arm("gkd", trials)], teacher=0.9, student=0.3))
    assert lead["better_teacher"].judgement == "confirmed"
    behind = advised(study([arm("gkd", trials)], teacher=0.3, student=0.9))
    assert behind["better_teacher"].judgement == "contradicted"
    level = advised(study([arm("gkd", trials)], teacher=0.31, student=0.3))
    assert level["better_teacher"].judgement == "untold"
    assert lead["larger_teacher"].judgement == "untold"


def test_a_winner_that_was_trained_for_longer_says_what_it_gained() -> None:
    def judgement(chance: float) -> str:
        longer = winner("gkd", "gkd", chance, of=9, at="device_seconds")
        plan = Plan(suite_hash="h", declared=0.0, finals={}, current={})
        tested = Confirmation(plan=plan, scores=scores(winner("gkd", "gkd", 0.5, of=1), longer))
        record = study([arm("gkd", [trial(0, completed(0.5))])])
        found = advised(record.model_copy(update={"test": tested}))["longer_training"]
        assert isinstance(found.evidence, LongerTraining)
        assert (found.evidence.steps, found.evidence.longer_steps) == (80, 200)
        return found.judgement

    assert [judgement(0.9), judgement(0.5), judgement(0.1)] == [
        "confirmed",
        "untold",
        "contradicted",
    ]


def test_a_curve_that_still_falls_is_told_and_proves_nothing() -> None:
    made = arm("gkd", [trial(0, completed(0.5))])
    record = study([made.model_copy(update={"finals": falling("gkd", 5, 0.05)})])
    still = advised(record)["longer_training"]
    assert still.judgement == "untold"
    assert isinstance(still.evidence, LateProgress)
    assert (still.evidence.start, still.evidence.end, still.evidence.seeds) == (40, 60, 5)
    assert still.evidence.fall == pytest.approx(0.48)
    assert still.evidence.p < 0.001


def test_more_steps_are_tested_where_they_were_searched() -> None:
    trials = [
        trial(n, completed(0.3 + steps / 1000 + n / 10_000), max_steps=steps)
        for n, steps in enumerate([50, 100, 200] * 5)
    ]
    found = advised(study([arm("gkd", trials)]))["longer_training"]
    assert found.judgement == "confirmed" and isinstance(found.evidence, Contrast)


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
