"""What a study proves, from scores that are known."""

from __future__ import annotations

from typing import Any

import pytest

from sweeper.analysis.stats.significance import holm
from sweeper.analysis.verdict import judge
from sweeper.analysis.verdict_records import Verdict
from sweeper.records.study_record import ConfirmedWinner
from sweeper.reporting.text.headline import verdict_headline
from sweeper.reporting.text.verdict import explanations, notes, sentence
from tests.support.confirmation_scores import GKD, SFT, scores, winner

KD = winner("supervised_kd", "supervised_kd", 0.69, of=3)


def verdict(*arms: ConfirmedWinner, margin: float | None = None, **changes: Any) -> Verdict:
    return judge(scores(*arms, **changes), ("steps", "device_seconds"), margin, best_gkd="gkd")


def test_the_best_gkd_arm_is_compared_with_each_offline_arm() -> None:
    found = verdict(GKD, winner("gkd-default", "gkd", 0.6, of=5), SFT, KD)
    assert [(pair.arm, pair.against) for pair in found.pairs] == [
        ("gkd", "sft"),
        ("gkd", "supervised_kd"),
    ]
    assert [pair.conclusion for pair in found.pairs] == ["better", "inconclusive"]
    assert [p.p_adjusted for p in found.pairs] == pytest.approx(holm([p.p for p in found.pairs]))
    assert "better than sft" in verdict_headline(found)
    assert "gkd against supervised_kd is inconclusive" in verdict_headline(found)


def test_without_gkd_all_pairs_are_compared() -> None:
    found = judge(scores(SFT, KD), ("steps",), None, best_gkd=None)
    assert [(pair.arm, pair.against) for pair in found.pairs] == [("sft", "supervised_kd")]
    assert found.pairs[0].conclusion == "worse"
    assert verdict_headline(found) == f"On the test suite, {sentence(found.pairs[0], None)}"


def test_a_margin_makes_arms_equivalent() -> None:
    found = verdict(GKD, KD, margin=0.15)
    assert found.pairs[0].conclusion == "equivalent"
    assert "equivalent within 0.15" in verdict_headline(found)
    assert verdict(GKD, KD, margin=0.001).pairs[0].conclusion == "inconclusive"


def test_the_sentence_says_what_the_numbers_say() -> None:
    [pair] = verdict(GKD, SFT).pairs
    assert pair.interval[0] < pair.difference < pair.interval[1]
    told = sentence(pair, None)
    assert told.startswith(f"gkd is better than sft: {pair.difference:+.3f} (95 % interval ")
    assert "5 seeds, 120 documents" in told


def test_where_lower_is_better_a_negative_difference_is_a_lead() -> None:
    found = verdict(winner("gkd", "gkd", 0.1, of=7), SFT, higher_is_better=False)
    [pair] = found.pairs
    assert pair.difference < 0
    assert pair.conclusion == "better"
    swapped = verdict(GKD, SFT, higher_is_better=False)
    assert swapped.pairs[0].conclusion == "worse"


def test_only_seeds_that_both_arms_have_are_paired() -> None:
    fewer = winner("sft", "sft", 0.4, of=2, seeds=3)
    [pair] = verdict(GKD, fewer).pairs
    assert pair.seeds == 3


def test_one_seed_knows_nothing_of_others() -> None:
    found = verdict(winner("gkd", "gkd", 0.7, of=1, seeds=1), winner("sft", "sft", 0.4, of=2))
    [pair] = found.pairs
    assert pair.seeds == 1
    assert any("one seed" in note for note in notes(found))


def test_arms_that_trained_longer_are_compared_beside() -> None:
    longer = winner("sft", "sft", 0.72, of=9, at="device_seconds")
    found = verdict(GKD, SFT, longer)
    assert [(pair.at, pair.conclusion) for pair in found.pairs] == [
        ("steps", "better"),
        ("device_seconds", "inconclusive"),
    ]
    assert [arm.max_steps for arm in found.at("device_seconds")] == [80, 200]


def test_seconds_of_trainings_that_shared_a_gpu_are_compared_with_no_others() -> None:
    longer = winner("sft", "sft", 0.72, of=9, at="device_seconds")
    for shared in ([GKD], [SFT, longer], [GKD, SFT, longer]):
        arms = [
            arm.model_copy(update={"sharing": 2}) if arm in shared else arm
            for arm in (GKD, SFT, longer)
        ]
        found = verdict(*arms)
        assert [pair.at for pair in found.pairs] == ["steps"]
        names = ", ".join(dict.fromkeys(arm.arm for arm in shared))
        assert any(
            note.startswith(f"{names}: not compared at equal device-seconds, because up to 2 jobs")
            for note in notes(found)
        )
    # Nothing is said where nothing would have been compared.
    arms = scores(GKD.model_copy(update={"sharing": 2}), SFT)
    assert not judge(arms, ("steps", "tokens"), None, best_gkd="gkd").missing


def test_gap_and_inflation() -> None:
    found = verdict(GKD, SFT)
    gkd = found.arms[0]
    assert gkd.gap_closed == pytest.approx(gkd.test.mean)
    assert gkd.gap_interval is not None
    low, high = gkd.gap_interval
    assert low < gkd.gap_closed < high
    nothing = verdict(GKD, SFT, teacher=SFT.scores[0], starting_student=SFT.scores[1])
    assert nothing.arms[0].gap_interval is None
    assert gkd.inflation == pytest.approx(0.04)


def test_a_second_look_is_told() -> None:
    assert not any("declared" in note for note in notes(verdict(GKD, SFT)))
    assert any("declared 2 times" in note for note in notes(verdict(GKD, SFT, looks=2)))


PAIRS = (("sft", "gkd"), ("gkd", "start"), ("teacher", "sft"))


def test_declared_comparisons_replace_the_default_ones_in_their_direction() -> None:
    default = verdict(GKD, SFT, KD)
    found = verdict(GKD, SFT, KD, compare=PAIRS)
    assert tuple((pair.arm, pair.against) for pair in found.pairs) == PAIRS
    assert [pair.comparisons for pair in found.pairs] == [3, 3, 3]
    assert [p.p_adjusted for p in found.pairs] == pytest.approx(holm([p.p for p in found.pairs]))
    assert found.pairs[0].difference == pytest.approx(-default.pairs[0].difference)
    assert [pair.conclusion for pair in found.pairs] == ["worse", "better", "better"]
    assert found.declared and not default.declared
    assert "sft is worse than gkd" in verdict_headline(found)
    assert any("The study file declares" in text for text in explanations(found))
    assert not any("The study file declares" in text for text in explanations(default))


def test_an_arm_is_compared_with_the_start_and_the_teacher_by_its_seeds() -> None:
    [pair] = verdict(GKD, compare=(("gkd", "start"),)).pairs
    [arm] = verdict(GKD, compare=(("gkd", "start"),)).arms
    assert pair.difference == pytest.approx(arm.test.mean), "the start has no answer right"
    assert pair.seeds == len(GKD.seeds)
    assert pair.stderr == pytest.approx(arm.test.stderr)


def test_what_no_arm_trains_has_no_equal_cost() -> None:
    longer = winner("sft", "sft", 0.72, of=9, at="device_seconds")
    found = verdict(GKD, SFT, longer, compare=(("gkd", "sft"), ("sft", "start")))
    assert [(pair.at, pair.against) for pair in found.pairs] == [
        ("steps", "sft"),
        ("steps", "start"),
        ("device_seconds", "sft"),
    ]
    assert found.missing == ()


def test_a_declared_comparison_that_could_not_be_made_is_reported() -> None:
    found = verdict(GKD, SFT, compare=(("gkd", "sft"), ("gkd", "seqkd")))
    assert [pair.against for pair in found.pairs] == ["sft"]
    assert any(note.startswith("gkd and seqkd were not compared") for note in notes(found))


def test_comparisons_that_changed_are_exploratory() -> None:
    assert not any("exploratory" in note for note in notes(verdict(GKD, SFT, compare=PAIRS[:1])))
    found = verdict(GKD, SFT, compare=PAIRS[:1], revised=True, looks=2)
    assert any("exploratory" in note for note in notes(found))


def test_arms_that_are_the_same_are_never_better_by_the_same_seeds() -> None:
    twin = GKD.model_copy(update={"arm": "twin", "method": "sft"})
    [pair] = verdict(GKD, twin).pairs
    assert (pair.difference, pair.p, pair.conclusion) == (0.0, 1.0, "inconclusive")


def test_an_arm_without_a_mistake_may_make_one() -> None:
    found = verdict(winner("gkd", "gkd", 2.0, of=1), SFT)
    test = found.arms[0].test
    # Clopper and Pearson's interval, as statsmodels' proportion_confint(120, 120, method="beta").
    assert (test.mean, test.high) == pytest.approx((1.0, 1.0))
    assert test.low == pytest.approx(0.96973, abs=1e-5)
    assert found.pairs[0].conclusion == "better"
