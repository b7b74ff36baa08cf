"""A choice of what samples rollouts, made up."""

from __future__ import annotations

from sweeper.config.settings import MethodSettings
from sweeper.records import EngineChoice, EngineRequest, EngineTest, Outcome
from tests.support.tracking_examples import completed


def engine_choice() -> EngineChoice:
    """The choice of ``transformers`` among three engines, one of which cannot sample."""
    request = EngineRequest(
        candidates=("sweeper", "transformers", "vllm"),
        arm="gkd",
        settings=MethodSettings(max_steps=10),
        prompts=8,
    )
    tests = (
        EngineTest(engine="sweeper", seconds=2.0, tokens=800),
        EngineTest(engine="transformers", seconds=0.5, tokens=790, logprob_diff=0.001),
        EngineTest(engine="vllm", problem="no server holds the student's weights"),
    )
    return EngineChoice(chosen="transformers", request=request, tests=tests)


def engines_outcome() -> Outcome:
    """The outcome of the step that made it."""
    return completed().model_copy(update={"engines": engine_choice(), "scores": None})
