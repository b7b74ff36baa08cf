"""Records of the preparation's test of what samples rollouts."""

from __future__ import annotations

from sweeper.config.base import Scalar
from sweeper.config.rollouts import RolloutEngine
from sweeper.config.settings import MethodSettings
from sweeper.records.base import Record


class EngineRequest(Record):
    """What the test samples, and with what."""

    candidates: tuple[RolloutEngine, ...]
    """Engines to test: the only one that is wanted, or several of which the fastest is."""
    left_out: dict[RolloutEngine, str] = {}
    """Engines that cannot sample in this study, each with the reason."""
    arm: str
    """Arm whose rollouts it samples: the one with the most tokens in a step."""
    settings: MethodSettings
    """Training and method settings of the arm."""
    lora: dict[str, Scalar] = {}
    """The arm's own values over the student's adapter."""
    prompts: int
    """Number of prompts: those of a step, unless they are very many."""

    @property
    def batch_size(self) -> int:
        """Number of answers that are sampled at a time."""
        return min(self.settings.rollout_batch_size or self.prompts, self.prompts)


class EngineTest(Record):
    """Test of one engine."""

    engine: RolloutEngine
    problem: str | None = None
    """Reason why it was left out; None if it passed."""
    seconds: float | None = None
    """Seconds that it sampled for; None if it did not come to that."""
    tokens: int | None = None
    """Tokens that it sampled."""
    logprob_diff: float | None = None
    """Mean absolute difference of its log-probabilities from the student's, in nats a token; None
    if it does not report them."""

    @property
    def tokens_per_second(self) -> float | None:
        """Speed; None if it was not measured."""
        return self.tokens / self.seconds if self.tokens and self.seconds else None


class EngineChoice(Record):
    """Engine that the preparation chose for the study's rollouts, and why."""

    chosen: RolloutEngine
    request: EngineRequest
    tests: tuple[EngineTest, ...]
    """Test of each candidate, then those that were left out without one."""

    def told(self) -> str:
        """Return the choice and the measurements in a sentence, without its stop."""
        found = []
        for test in self.tests:
            speed = test.tokens_per_second
            if test.problem is not None:
                found.append(f"{test.engine} left out: {test.problem}")
            elif speed is not None:
                found.append(
                    f"{test.engine} {speed:,.0f} tokens/s ({test.tokens:,} in {test.seconds:.2f} s)"
                )
        return f"rollouts are sampled by {self.chosen}: {'; '.join(found)}"
