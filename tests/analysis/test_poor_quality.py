"""What a study says when GKD taught its student nothing that can be measured."""

from __future__ import annotations

from sweeper.analysis.advice import advice
from sweeper.analysis.comparison import compare
from sweeper.analysis.poor_quality import PoorQuality, poor_quality
from sweeper.records.study_record import StudyRecord
from sweeper.reporting.text.training import poor_quality_sentences
from tests.support.example_study import arm, completed, study, trial
from tests.support.practice_examples import with_best_lmbda


def found(record: StudyRecord) -> PoorQuality | None:
    comparison = compare(record)
    return poor_quality(comparison, advice(record, comparison, None))


def test_a_student_that_learned_nothing_gets_what_was_not_tried() -> None:
    trials = [trial(0, completed(0.32), lmbda=0.3, temperature=0.3)]
    told = found(study([arm("gkd", trials)], teacher=0.9, student=0.3))
    assert told is not None
    assert told.untried == ("more_on_policy", "temperature", "longer_training")
    words = poor_quality_sentences(told)
    assert words.startswith(
        "The best GKD trial, gkd #0, is not measurably better than the starting student (0.320"
        " against 0.300, +0.8 standard errors). Try more on-policy sequences (lmbda 0.6 to 0.8), a"
        " temperature of 0.7 to 0.9 or training for longer (max_steps)."
    )
    assert "sweeper check" in words


def test_what_was_done_is_not_advised() -> None:
    trials = [trial(0, completed(0.2), lmbda=0.7, temperature=0.8)]
    told = found(study([arm("gkd", trials)], teacher=0.21, student=0.3))
    assert told is not None and told.untried == ("longer_training", "better_teacher")
    # Nothing is sampled at lmbda 0.
    trials = [trial(0, completed(0.2), lmbda=0.0)]
    told = found(study([arm("gkd", trials)], teacher=0.9, student=0.3))
    assert told is not None and told.untried == ("more_on_policy", "longer_training")


def test_what_the_trials_contradict_is_not_advised() -> None:
    low = with_best_lmbda(0.05)
    assert low.starting_student is not None
    better = low.starting_student.model_copy(update={"scores": completed(0.6).scores})
    told = found(low.model_copy(update={"starting_student": better}))
    assert told is not None and "more_on_policy" not in told.untried


def test_a_student_that_learned_gets_none() -> None:
    trials = [trial(0, completed(0.5))]
    assert found(study([arm("gkd", trials)], teacher=0.9, student=0.3)) is None
    worse = [trial(0, completed(0.5, higher_is_better=False))]
    lower = study([arm("gkd", worse)], higher_is_better=False, teacher=0.1, student=0.9)
    assert found(lower) is None
    assert found(study([arm("sft", trials)], teacher=0.9, student=0.3)) is None
    assert found(study([arm("gkd", trials)], teacher=0.9, student=None)) is None
