"""Diagnosis of a teacher and a starting student as a pair: what each makes of the other's answers.

The records keep sums by prompt, so that means and their intervals can be computed from them later.
"""

from __future__ import annotations

from sweeper.records.base import Record

QUARTERS = 4
"""Number of equal parts of an answer that entropies are summed over."""


class PairRequest(Record):
    """What the diagnosis samples, and for which study."""

    key: str
    """Hash of everything in the study that decides the result."""
    max_new_tokens: int
    """Most tokens of an answer."""
    rollout_limit: int | None
    """Most tokens of a rollout in the study's trainings; None if no arm samples."""
    teachers: tuple[str, ...]
    """The study's teacher, then the models that arms have instead, by their names there."""


class Reading(Record):
    """One model's predictions along one answer, summed over its tokens."""

    log_probability: float
    """Log-probability of the answer, in nats."""
    entropies: tuple[float, ...]
    """Entropies of the next token by quarter of the answer, in nats."""
    shared_mass: float
    """Probability of the tokens that both models rank among their top ones."""


class SampledAnswer(Record):
    """One model's answer to a prompt, as both models read it."""

    tokens: int
    """Number of tokens, the end token included."""
    ended: bool
    """True if it ended with an end token, rather than at ``max_new_tokens``."""
    quarters: tuple[int, ...]
    """Number of tokens in each quarter."""
    student: Reading
    teacher: Reading
    shared_tokens: float
    """Share of the top tokens that are in both models' lists, summed over the answer's tokens."""
    thinking_marks: tuple[str, ...] = ()
    """Different marks of thinking in its text, such as ``<think>``."""
    template_marks: tuple[str, ...] = ()
    """Different marks of chat templates in its text: special tokens and the like, except its end
    token and those that the student's template writes inside an answer."""


class ProbedPrompt(Record):
    """A prompt with an answer of either model."""

    same_first_token: bool
    """True if both models' most likely first token is the same."""
    student: SampledAnswer
    teacher: SampledAnswer


class ProbedPair(Record):
    """A teacher and the starting student on the same prompts."""

    teacher: str
    """Name of the teacher, as the study file has it."""
    prompts: tuple[ProbedPrompt, ...]


class PairDiagnosis(Record):
    """Everything that was sampled of a study's pair, or pairs."""

    request: PairRequest
    seed: int
    """Seed that prompts and answers were drawn with."""
    top: int
    """Number of each model's most likely tokens that are compared."""
    vocabulary: int
    """Number of tokens that both models know."""
    pairs: tuple[ProbedPair, ...]
    """The study's teacher first, then those that arms have instead."""
