"""Arms that stop because their best score no longer rises."""

from __future__ import annotations

from sweeper.study.early_stopping import is_stale
from tests.support.tiny_studies import adder_study
from tests.support.trial_summaries import config, ended, reason


def test_an_arm_is_stale_when_its_best_has_not_risen_beyond_its_standard_error() -> None:
    rising = dict(enumerate(ended(score=score, stderr=0.05) for score in (0.3, 0.4, 0.5, 0.6)))
    assert not is_stale(rising, 2, higher_is_better=True)
    flat = rising | {4: ended(score=0.64), 5: ended(score=0.2)}
    assert is_stale(flat, 2, higher_is_better=True)
    assert not is_stale(flat, 3, higher_is_better=True)
    assert not is_stale(
        rising | {4: ended(score=0.66), 5: ended(score=0.2)}, 2, higher_is_better=True
    )
    failures = rising | {4: ended(score=None), 5: ended(score=None, kind="diverged")}
    assert is_stale(failures, 2, higher_is_better=True)
    assert not is_stale({0: ended(score=None), 1: ended(score=None)}, 1, higher_is_better=True)
    assert is_stale(rising, 2, higher_is_better=False)


def test_patience_of_an_arm_goes_before_the_studys() -> None:
    arms = adder_study()["arms"]
    arms["gkd"]["budget"] = {"patience": 4}
    study = config(arms=arms, budget={"patience": 2})
    flat = dict(enumerate(ended() for _ in range(4)))
    assert reason(study, "gkd", {"gkd": flat, "sft": flat}) is None
    assert reason(study, "sft", {"gkd": flat, "sft": flat}) == "patience"
