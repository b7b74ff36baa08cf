"""The test of an engine: it samples from a student, which then reads what was sampled.

What an engine samples has to follow the student's own distribution. Two sums over its tokens x
show that, for p, the student's distribution at the temperature, with the entropy H:

- log p(x) + H has the mean 0 at every position. Top-k, penalties and weights of another student
  move the sum by many of its standard deviations.
- The log-probabilities that the engine reports are the student's but for rounding.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch

from sweeper.config.rollouts import RolloutEngine
from sweeper.distillation.data.batches import PromptCollator, counted_positions
from sweeper.distillation.models.lm_head import LMHead
from sweeper.distillation.sampling.engines import Engine
from sweeper.distillation.sampling.rollouts import Rollout
from sweeper.foundation.errors import DivergedError
from sweeper.records.engines import EngineTest

_WARM_UP = 4
"""Tokens of an answer that is not timed."""
_ROUNDS = 3
"""Times that a window is sampled, unless that takes long."""
_LONG = 3.0
"""Seconds after which there is no further round."""
_DEVIATIONS = 6.0
"""Standard deviations that chance does not reach."""
_POSITIONS = 64
"""Positions whose logits are computed at a time."""


@dataclass(frozen=True)
class SampledWindow:
    """What an engine is tested on: the rollouts of one step.

    Attributes:
        model: Student, with its adapter.
        prompts: Prompts.
        temperature: Temperature of sampling.
        max_new_tokens: Most tokens of an answer.
        end_ids: Tokens that end one.
        pad_id: Padding token.
        seed: Seed of the answers.
        batch_size: Answers at a time.
        autocast: Gives the precision that the trainer samples in.
    """

    model: Any
    prompts: Sequence[Sequence[int]]
    temperature: float
    max_new_tokens: int
    end_ids: Sequence[int]
    pad_id: int
    seed: int
    batch_size: int
    autocast: AbstractContextManager[Any]

    def sample(self, engine: Engine, max_new_tokens: int) -> list[Rollout]:
        """Return the engine's answers."""
        with self.autocast:
            return engine(
                self.model,
                self.prompts,
                temperature=self.temperature,
                max_new_tokens=max_new_tokens,
                end_ids=self.end_ids,
                pad_id=self.pad_id,
                seed=self.seed,
                batch_size=self.batch_size,
            )

    @torch.no_grad()
    def read(self, answers: Sequence[Rollout]) -> tuple[float, float | None]:
        """Return how far the answers are from the student's distribution.

        Returns:
            Standard deviations between the sum of log-probabilities and what it should be; and the
            mean absolute difference from what the engine reported, in nats, or None.

        Raises:
            DivergedError: The student's logits are not finite.
        """
        surplus = variance = difference = 0.0
        count = 0
        for prompt, answer in zip(self.prompts, answers, strict=True):
            for chosen, entropy, spread, reported in self._predictions(prompt, answer):
                surplus += float((chosen + entropy).sum())
                variance += float(spread.sum())
                if reported is not None:
                    difference += float(reported.sum())
                    count += len(reported)
        return surplus / max(variance, 1e-12) ** 0.5, difference / count if count else None

    def _predictions(self, prompt: Sequence[int], answer: Rollout) -> Any:
        """Yield log p, H, the variance of log p, and differences, some positions at a time."""
        batch = PromptCollator(self.pad_id).pad([(prompt, answer.tokens)])
        positions = counted_positions(batch["labels"])
        with self.autocast:
            head = LMHead.of(self.model, trained=True)
            states = head.states({"input_ids": batch["input_ids"]}, positions)
            for start in range(0, len(states), _POSITIONS):
                part = slice(start, start + _POSITIONS)
                logits = head.logits(states[part]).float()
                if not bool(logits.amax(-1).isfinite().all()):
                    raise DivergedError("The logits are not finite: the student does not work.")
                tokens = torch.tensor(answer.tokens[part], device=logits.device)[:, None]
                logs = (logits / self.temperature).log_softmax(-1)
                p, finite = logs.exp(), logs.clamp(min=-1e4)
                entropy = -(p * finite).sum(-1)
                spread = (p * finite.square()).sum(-1) - entropy.square()
                reported = None
                if answer.log_probs is not None:
                    theirs = torch.tensor(answer.log_probs[part], device=logits.device)
                    ours = (logits / answer.log_probs_at).log_softmax(-1).gather(-1, tokens)[:, 0]
                    reported = (ours - theirs).abs()
                yield logs.gather(-1, tokens)[:, 0], entropy, spread.clamp(min=0), reported


def run_engine(
    name: RolloutEngine, engine: Engine, window: SampledWindow, *, limit: float
) -> EngineTest:
    """Let an engine sample a window, to warm up and then against the clock, and check it.

    The fastest of a few rounds counts, so that another process in one of them does no harm.

    Args:
        name: Name of the engine.
        engine: The engine.
        window: What it samples.
        limit: Mean difference of log-probabilities that it may have, in nats.

    Raises:
        DivergedError: The student's logits are not finite.
    """
    window.sample(engine, min(_WARM_UP, window.max_new_tokens))
    begun, seconds = _now(), math.inf
    for _ in range(_ROUNDS):
        started = _now()
        answers = window.sample(engine, window.max_new_tokens)
        seconds = min(seconds, _now() - started)
        if _now() - begun > _LONG:
            break
    problem, difference = _shape_problem(window, answers), None
    if problem is None:
        deviations, difference = window.read(answers)
        if abs(deviations) > _DEVIATIONS:
            problem = (
                "its answers do not follow the student's distribution (the sum of their"
                f" log-probabilities is {abs(deviations):.0f} standard deviations off)"
            )
        elif difference is not None and difference > limit:
            problem = (
                f"its log-probabilities differ from the student's by {difference:.2g} nats a token,"
                f" more than {limit:g}"
            )
    tokens = sum(len(answer.tokens) for answer in answers)
    return EngineTest(
        engine=name, problem=problem, seconds=seconds, tokens=tokens, logprob_diff=difference
    )


def _shape_problem(window: SampledWindow, answers: Sequence[Rollout]) -> str | None:
    """Return what is wrong with the answers' tokens, if anything is."""
    if len(answers) != len(window.prompts):
        return f"it gave {len(answers)} answers to {len(window.prompts)} prompts"
    ends = set(window.end_ids)
    for answer in answers:
        *body, last = answer.tokens or (None,)
        whole = len(answer.tokens) == window.max_new_tokens
        if (
            not 1 <= len(answer.tokens) <= window.max_new_tokens
            or ends.intersection(body)
            or answer.finished is not (last in ends)
            or not (answer.finished or whole)
        ):
            return "its answers do not end with an end token or at max_new_tokens"
    return None


def _now() -> float:
    """Return the seconds of a clock, once the device is idle."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()
