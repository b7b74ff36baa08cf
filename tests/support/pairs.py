"""Diagnoses of pairs: a real tiny pair's training data, and made-up outcomes."""

from __future__ import annotations

from typing import Any

from sweeper.records import (
    Outcome,
    PairDiagnosis,
    PairRequest,
    ProbedPair,
    ProbedPrompt,
    Reading,
    SampledAnswer,
)


def reading(log_probability: float, entropy: float, shared: float, tokens: int) -> Reading:
    """Predictions that are the same at each token; ``tokens`` is a multiple of 4."""
    return Reading(
        log_probability=log_probability * tokens,
        entropies=(entropy * tokens / 4,) * 4,
        shared_mass=shared * tokens,
    )


def answer(
    tokens: int = 8, *, own: float = -1.0, other: float = -1.5, shared: float = 0.95, **changes: Any
) -> SampledAnswer:
    """A student's answer, whose log-probabilities are those of one token."""
    return SampledAnswer(
        **{
            "tokens": tokens,
            "ended": True,
            "quarters": (tokens // 4,) * 4,
            "student": reading(own, 1.0, shared, tokens),
            "teacher": reading(other, 0.5, shared, tokens),
            "shared_tokens": 0.75 * tokens,
            **changes,
        }
    )


def prompt(
    student: SampledAnswer | None = None,
    teacher: SampledAnswer | None = None,
    *,
    same: bool = True,
) -> ProbedPrompt:
    """A prompt with an answer of either model."""
    theirs = teacher or answer(own=-2.0, other=-0.5)
    return ProbedPrompt(same_first_token=same, student=student or answer(), teacher=theirs)


def diagnosis(
    *prompts: ProbedPrompt, limit: int = 48, rollout_limit: int | None = 48, vocabulary: int = 1000
) -> Outcome:
    """The outcome of the pair step; by default of eight prompts with nothing to worry about."""
    request = PairRequest(
        key="k" * 64, max_new_tokens=limit, rollout_limit=rollout_limit, teachers=("org/teacher",)
    )
    pair = ProbedPair(teacher="org/teacher", prompts=prompts or (prompt(),) * 8)
    found = PairDiagnosis(request=request, seed=3, top=16, vocabulary=vocabulary, pairs=(pair,))
    return Outcome(state="completed", pair=found, started=1_760_000_000.0, finished=1_760_000_009.0)
