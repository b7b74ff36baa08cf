"""Failures by arm and kind."""

from __future__ import annotations

from sweeper.analysis.failures import FailureGroup, failure_groups, rescored_trials
from sweeper.records import Outcome
from sweeper.records.study_record import TrialRecord
from sweeper.reporting.text.training import failure_sentence, rescored_sentence
from tests.support.example_study import arm, completed, failed, study, trial


def groups(trials: list[TrialRecord]) -> tuple[FailureGroup, ...]:
    return failure_groups(study([arm("gkd", trials)]))


def test_failures_are_grouped_by_kind_the_most_frequent_first() -> None:
    trials = [
        trial(n, failed("diverged", "NaN") if n % 3 == 0 else completed(0.5)) for n in range(9)
    ]
    trials.append(trial(9, failed("out_of_memory")))
    diverged, memory = groups(trials)
    assert (diverged.arm, diverged.kind, diverged.ended) == ("gkd", "diverged", 10)
    assert diverged.trials == (0, 3, 6)
    assert (memory.kind, memory.trials, memory.ended) == ("out_of_memory", (9,), 10)
    assert failure_sentence(diverged).startswith("3 of 10 trials: diverged (#0, #3, #6)")
    assert groups([]) == ()


def test_what_to_change_is_told_where_memory_ran_out() -> None:
    trials = [
        trial(n, failed("out_of_memory"), per_device_train_batch_size=rows)
        for n, rows in enumerate((16, 8))
    ]
    arms = {"gkd": {"settings": {"gradient_checkpointing": True}}}
    config = {
        "study": "s",
        "teacher": {"model": "t"},
        "student": {"model": "s"},
        "data": {"train": {"path": "rows.jsonl"}},
        "arms": arms,
        "evaluation": {"selection": "selection.yaml"},
    }
    [group] = failure_groups(study([arm("gkd", trials)], config=config))
    first, *others = group.remedies
    assert first.startswith("per_device_train_batch_size: 4 with gradient_accumulation_steps: 2")
    assert others == [
        "teacher.quantization: int8",
        "a smaller teacher.model",
        "student.lora: {r: 16}",
    ]
    assert f"To need less, in the order to try: {first}; " in failure_sentence(group)


def test_what_the_lightest_trial_itself_left_to_try_is_told_where_memory_ran_out() -> None:
    trials = []
    for number, (rows, remedies) in enumerate({16: ("a", "b"), 2: ("b",), 8: ("c",)}.items()):
        outcome = failed("out_of_memory")
        assert outcome.failure is not None
        failure = outcome.failure.model_copy(update={"remedies": remedies})
        outcome = outcome.model_copy(update={"failure": failure})
        record = trial(number, outcome)
        # As it was at last: all were written with 16, and tried again with fewer.
        settings = {**record.settings, "per_device_train_batch_size": rows}
        trials.append(record.model_copy(update={"settings": settings}))
    [group] = groups(trials)
    assert group.remedies == ("b",)


def test_trials_that_were_scored_in_smaller_batches_are_counted_with_the_key_that_saves_it() -> (
    None
):
    def scored(size: int | None) -> Outcome:
        outcome = completed(0.5)
        assert outcome.scores is not None
        scores = outcome.scores.model_copy(update={"batch_size": size})
        return outcome.model_copy(update={"scores": scores})

    trials = [trial(n, scored(size)) for n, size in enumerate((None, 32, None, 8))]
    record = study([arm("gkd", trials), arm("sft", [trial(0, scored(None)), trial(1, failed())])])
    [group] = rescored_trials(record)
    assert (group.arm, group.trials, group.confirmation_runs) == ("gkd", (1, 3), 0)
    sentence = rescored_sentence(group)
    assert sentence.startswith("trials #1, #3 ran out of memory while they were scored")
    assert sentence.endswith("evaluation: {batch_size: 8}")
