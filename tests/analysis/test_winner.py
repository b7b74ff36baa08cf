"""Which student of a study is the one to use."""

from __future__ import annotations

import pytest

from sweeper.analysis.winner import choose
from sweeper.foundation.errors import ConfigError
from sweeper.records import ConfirmationRun
from sweeper.records.study_record import (
    Confirmation,
    ConfirmationRunRecord,
    ConfirmedWinner,
    Plan,
    StudyRecord,
)
from tests.support.confirmation_scores import scores, winner
from tests.support.example_study import arm, completed, study, trial


def record(*tested: ConfirmedWinner) -> StudyRecord:
    """Two GKD arms and one of SFT, which is ahead in the search; ``tested`` is the test's."""
    finals = tuple(
        ConfirmationRunRecord(
            number=number,
            final=ConfirmationRun(arm="gkd", trial=3, seed=seed, at="steps", max_steps=80),
            state="completed",
            outcome=completed(0.6),
        )
        for number, seed in ((0, 1), (1, 0))
    )
    gkd = [trial(1, completed(0.5)), trial(2, completed(0.7)), trial(3, completed(0.65))]
    found = study(
        [
            arm("gkd", gkd).model_copy(update={"finals": finals if tested else ()}),
            arm("gkd-default", [trial(0, completed(0.6))], method="gkd"),
            arm("sft", [trial(3, completed(0.8))]),
            arm("seqkd", [trial(0, None)]),
        ]
    )
    if not tested:
        return found
    plan = Plan(suite_hash="h", declared=0.0, finals={}, current={})
    confirmation = Confirmation(plan=plan, scores=scores(*tested))
    return found.model_copy(update={"test": confirmation})


def test_without_a_verdict_the_best_gkd_trial_wins() -> None:
    found = choose(record())
    assert (found.arm, found.trial.number, found.final) == ("gkd", 2, None)
    assert "selection score among the GKD arms" in found.why


def test_the_verdict_decides_for_an_offline_arm_only_if_that_is_better() -> None:
    gkd, low = winner("gkd", "gkd", 0.7, of=1), winner("gkd", "gkd", 0.3, of=1)
    even, ahead = winner("sft", "sft", 0.71, of=2), winner("sft", "sft", 0.9, of=2)
    found = choose(record(gkd, even))
    # The trial that was tested, which is not the search's best, with the first of the new seeds.
    assert (found.arm, found.trial.number) == ("gkd", 3)
    assert found.final is not None and found.final.number == 1
    found = choose(record(low, ahead))
    assert (found.arm, found.trial.number, found.final) == ("sft", 3, None)
    assert found.why == "by the verdict: gkd is worse"


def test_an_arm_may_be_named() -> None:
    assert choose(record(), "gkd-default").why == "by name"
    with pytest.raises(ConfigError, match="--arm: expected one of gkd, gkd-default, sft, seqkd"):
        choose(record(), "kd")
    with pytest.raises(ConfigError, match="the arm seqkd has no trial with a score yet"):
        choose(record(), "seqkd")


def test_without_gkd_the_best_arm_wins() -> None:
    found = study(
        [arm("sft", [trial(0, completed(0.3))]), arm("seqkd", [trial(0, completed(0.4))])]
    )
    assert choose(found).arm == "seqkd"
    with pytest.raises(ConfigError, match="no trial with a score yet"):
        choose(study([arm("sft", [trial(0, None)])]))
