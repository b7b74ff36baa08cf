"""Rollouts that were cut, and rollouts that are much longer than the references."""

from __future__ import annotations

from typing import Any

from sweeper.analysis.rollout_stats import rollout_curves, rollout_stats
from sweeper.records import CollapseKind, CollapseSign
from sweeper.records.study_record import CurvePoint, TrialRecord
from sweeper.reporting.text.training import rollout_warnings
from tests.support.example_study import arm, completed, failed, study, trial
from tests.support.practice_examples import final, sampled


def test_cut_and_long_rollouts_are_found() -> None:
    trials = [
        sampled(0, 0.5, truncated=0.19, length=8.2),
        sampled(1, 0.5, truncated=0.21, length=8.3, max_new_tokens=9),
    ]
    found = rollout_stats(study([arm("gkd", trials)]))
    assert found is not None
    assert [t.number for t in found.truncated] == [1]
    assert found.truncated[0].max_new_tokens == 9
    # The references of the example have 4.1 tokens.
    assert [t.number for t in found.longer] == [1]


def test_rollouts_of_another_distribution_are_named() -> None:
    trials = []
    for number, difference in enumerate((0.0009, 0.3, None)):
        made = sampled(number, 0.5, length=4.0)
        assert made.outcome is not None and made.outcome.rollouts is not None
        limit = {"logprob_diff": difference, "logprob_diff_limit": difference and 1e-3}
        rollouts = made.outcome.rollouts.model_copy(update=limit)
        outcome = made.outcome.model_copy(update={"rollouts": rollouts})
        trials.append(made.model_copy(update={"outcome": outcome}))
    found = rollout_stats(study([arm("gkd", trials)]))
    assert found is not None
    assert [t.number for t in found.differing] == [1]
    [warning] = rollout_warnings(found)
    assert "by 0.3 nats on average, at most: gkd #1" in warning


def test_offline_trials_and_old_records_say_nothing() -> None:
    assert rollout_stats(study([arm("sft", [sampled(0, 0.5)])])) is None
    assert rollout_stats(study([arm("gkd", [trial(0, completed(0.5))])])) is None


def collapsed(kind: CollapseKind, step: int = 40) -> tuple[CollapseSign, ...]:
    message = "the student repeats itself (collapse.repetition: 0.5)"
    return (CollapseSign(kind=kind, step=step, message=message, remedies=("a lower lmbda",)),)


def with_signs(number: int, kind: CollapseKind, **changes: Any) -> TrialRecord:
    made = sampled(number, 0.5, truncated=0.9, length=30.0, **changes)
    assert made.outcome is not None
    return made.model_copy(
        update={"outcome": made.outcome.model_copy(update={"collapse": collapsed(kind)})}
    )


def test_a_trial_whose_rollouts_collapsed_is_listed_once() -> None:
    run = final("gkd", 2, [(20, 1.0, 0.2), (40, 0.8, 0.1)], of=1)
    assert run.outcome is not None
    outcome = run.outcome.model_copy(update={"collapse": collapsed("entropy")})
    trials = [with_signs(0, "endless"), with_signs(1, "repetition"), sampled(2, 0.5, length=4.0)]
    lost = trial(3, failed("diverged", "collapsed"))
    assert lost.outcome is not None
    signs = {"collapse": collapsed("repetition", 60)}
    trials.append(lost.model_copy(update={"outcome": lost.outcome.model_copy(update=signs)}))
    made = arm("gkd", trials).model_copy(
        update={"finals": (run.model_copy(update={"outcome": outcome}),)}
    )
    found = rollout_stats(study([made]))
    assert found is not None
    # Repetition is another failure than being cut.
    assert [t.number for t in found.truncated] == [t.number for t in found.longer] == [1]
    assert [(case.number, case.seed, case.sign.kind) for case in found.collapsed] == [
        (0, None, "endless"),
        (1, None, "repetition"),
        (3, None, "repetition"),
        (1, 2, "entropy"),
    ]
    told = rollout_warnings(found)
    assert told[0].startswith("Answers that do not end in gkd #0. In gkd #0, at step 40 the")
    assert told[1].startswith("Collapse into repetition in gkd #1, #3. In gkd #1, at step 40")
    assert told[2].startswith("Entropy collapse in 1 confirmation run. In gkd #1, at step 40")
    assert all(line.endswith("Try a lower lmbda.") for line in told[:3])


def test_curves_are_the_winners_or_the_best_trials_and_the_collapsed_ones() -> None:
    points = tuple(CurvePoint(step=s, rollout_length=30.0 + s, repetition=0.1) for s in (5, 10))
    best = sampled(0, 0.9).model_copy(update={"curve": points})
    ill = with_signs(1, "repetition").model_copy(update={"curve": points})
    searched = study(
        [arm("gkd", [best, ill, sampled(2, 0.4)]), arm("sft", [trial(0, completed(0.4))])]
    )
    curves = rollout_curves(searched, None)
    assert [(c.trial, c.collapsed) for c in curves] == [(0, False), (1, True)]
    assert set(curves[0].measures) == {"rollout_length", "repetition"}

    runs = [final("gkd", seed, [(5, 1.0, None), (10, 1.0, None)], of=2) for seed in range(2)]
    finals = tuple(run.model_copy(update={"curve": points}) for run in runs)
    made = searched.arms[0].model_copy(update={"finals": finals})
    curves = rollout_curves(study([made]), None)
    assert [(c.trial, c.collapsed) for c in curves] == [(2, False), (1, True)]
    assert [step.seeds for step in curves[0].measures["repetition"]] == [2, 2]
