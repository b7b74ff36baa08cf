"""What a diagnosis of a pair comes to: means by token, intervals over prompts, and worries."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from sweeper.analysis.pair import Concern, PairSummary, pair_values, summarize_pairs
from sweeper.records import Outcome, SampledAnswer
from tests.support.pairs import answer, diagnosis, prompt, reading


def only(outcome: Outcome) -> PairSummary:
    [pair] = summarize_pairs(outcome)
    return pair


def test_means_are_by_token_and_intervals_over_prompts() -> None:
    own = [-1.0, -1.2, -0.7, -0.9]
    found = only(diagnosis(*(prompt(answer(8, own=value)) for value in own)))
    mean = found.answers["student"].log_probability["student"]
    half = stats.t.isf(0.025, 3) * stats.sem(own)
    assert mean.value == pytest.approx(np.mean(own))
    assert (mean.low, mean.high) == pytest.approx((np.mean(own) - half, np.mean(own) + half))
    # A long answer counts by its tokens.
    found = only(diagnosis(prompt(answer(4, own=-2.0)), prompt(answer(12, own=-1.0))))
    answers = found.answers["student"]
    assert answers.log_probability["student"].value == pytest.approx(-1.25)
    assert answers.divergence.value == pytest.approx(0.25)
    assert (answers.tokens, answers.length.value) == (16, 8.0)
    # Of the teacher's answers, the difference is the other way round.
    assert found.answers["teacher"].divergence.value == pytest.approx(1.5)


def test_intervals_of_unequal_answers_cover_other_prompts() -> None:
    rng = np.random.default_rng(1)
    covered = 0
    for _ in range(100):
        lengths = 4 * rng.integers(1, 12, 16)
        found = only(
            diagnosis(
                *(prompt(answer(int(n), own=-1.0 + 0.02 * n + rng.normal(0, 0.3))) for n in lengths)
            )
        )
        mean = found.answers["student"].log_probability["student"]
        # The ratio of the expectations, for lengths of 4 to 44.
        n = 4 * np.arange(1, 12)
        truth = float((n * (-1.0 + 0.02 * n)).sum() / n.sum())
        assert mean.low is not None and mean.high is not None
        covered += mean.low <= truth <= mean.high
    assert covered >= 88


def test_one_prompt_has_no_interval() -> None:
    found = only(diagnosis(prompt()))
    assert found.answers["student"].length.low is None
    assert found.drift is None and found.concerns == ()


def marked(*, thinking: tuple[str, ...] = (), template: tuple[str, ...] = ()) -> SampledAnswer:
    return answer(thinking_marks=thinking, template_marks=template)


def rising(rise: float) -> SampledAnswer:
    """An answer along which the teacher's entropy rises."""
    flat = reading(-1.5, 0.5, 0.95, 8)
    return answer(teacher=flat.model_copy(update={"entropies": (1.0, 1.0, 1.0, 1.0 + 2 * rise)}))


WORRYING: list[tuple[Concern | None, Outcome]] = [
    (None, diagnosis()),
    ("little_shared", diagnosis(*[prompt(answer(shared=0.89))] * 8)),
    (None, diagnosis(*[prompt(answer(shared=0.91))] * 8)),
    # Of 32 tokens, 16 are on top anyway.
    (None, diagnosis(*[prompt(answer(shared=0.5))] * 8, vocabulary=32)),
    ("nothing_to_learn", diagnosis(*[prompt(answer(own=-1.0, other=-1.0))] * 8)),
    ("nothing_to_learn", diagnosis(*(prompt(answer(n, other=-1.0)) for n in (4, 8, 12, 16, 20)))),
    # Two prompts that differ are no evidence that nothing is to be learnt.
    (None, diagnosis(prompt(answer(other=-1.02)), prompt(answer(other=-0.98)))),
    ("drift", diagnosis(*(prompt(rising(rise)) for rise in (0.9, 1.0, 1.1, 1.0)))),
    (None, diagnosis(*(prompt(rising(rise)) for rise in (-0.9, 1.0, 1.1, -1.0)))),
    ("first_token", diagnosis(*[prompt(same=False)] * 5, *[prompt()] * 3)),
    (None, diagnosis(*[prompt(same=False)] * 4, *[prompt()] * 4)),
    ("truncated", diagnosis(*[prompt(answer(ended=False))] * 2, *[prompt()] * 6)),
    # In training, the limit is another.
    (None, diagnosis(*[prompt(answer(ended=False))] * 8, limit=8, rollout_limit=512)),
    (None, diagnosis(*[prompt(answer(ended=False))] * 8, rollout_limit=None)),
    ("length", diagnosis(*[prompt(answer(20))] * 8)),
    (None, diagnosis(*[prompt(answer(16))] * 8)),
    ("marks", diagnosis(prompt(marked(template=("<|im_start|>",))), *[prompt()] * 7)),
    ("marks", diagnosis(*[prompt(marked(thinking=("<think>",)))] * 5, *[prompt()] * 3)),
    (None, diagnosis(*[prompt(marked(thinking=("<think>",)))] * 4, *[prompt()] * 4)),
]


@pytest.mark.parametrize(("concern", "outcome"), WORRYING)
def test_a_worry_has_its_threshold(concern: Concern | None, outcome: Outcome) -> None:
    assert only(outcome).concerns == ((concern,) if concern else ())


def test_its_numbers_are_finite_and_have_names() -> None:
    values = pair_values(diagnosis())
    assert values["student_answers/divergence"] == pytest.approx(0.5)
    assert values["teacher_answers/shared_mass_teacher"] == pytest.approx(0.95)
    assert values["student_answers/entropy_teacher_quarter_4"] == pytest.approx(0.5)
    assert all(map(math.isfinite, values.values()))


def test_an_outcome_without_a_diagnosis_has_no_summary() -> None:
    bare = Outcome(state="completed", started=0.0, finished=1.0)
    assert summarize_pairs(bare) == ()
